"""A run is a function of its configuration: stopped, killed or moved, it comes to the same numbers."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_run import BATCH_SIZE, STEPS, TINY, assert_same_bits, rows, saved_state, summary, train_tiny

from evotrain import run as run_module
from evotrain import train as train_module
from evotrain.data.sources import Example, Source, open_source
from evotrain.errors import DataError, Preempted

PATIENCE = 300  # seconds that a started program may take at most; nothing here measures time


def signal_in_step(monkeypatch: pytest.MonkeyPatch, step: int, *numbers: int) -> None:
    """Sends this process signals while the loop is in `step`."""
    stepped = run_module.Run.stepped

    def stepped_and_signalled(self, metrics, notes):
        stepped(self, metrics, notes)
        if int(metrics["examples"]) == step * BATCH_SIZE:
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(run_module.Run, "stepped", stepped_and_signalled)


def replace_examples(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Training examples become `change(index, example)`."""

    def changed_source(config) -> Source:
        source = open_source(config)
        train = source.train
        source.train = lambda index: change(index, train(index))
        return source

    monkeypatch.setattr(train_module, "open_source", changed_source)


# --- the same numbers ------------------------------------------------------------------------------------------------


def test_the_same_configuration_gives_the_same_bits(one_device, finished_run, tmp_path):
    train_tiny(tmp_path)
    assert rows(tmp_path) == rows(finished_run)
    assert_same_bits(saved_state(tmp_path), saved_state(finished_run))
    # What is equal above could differ.
    train_tiny(tmp_path / "other", "data.coupling=1", "steps=1")
    assert rows(tmp_path / "other")[1]["grad_norm"] != rows(finished_run)[1]["grad_norm"]


def test_stopped_after_every_step(one_device, finished_run, tmp_path):
    whole = rows(finished_run)
    for step in range(1, STEPS):
        with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Preempted, match=f"after step {step}, "):
            signal_in_step(monkeypatch, step, signal.SIGTERM)
            train_tiny(tmp_path)
        assert rows(tmp_path) == [row for row in whole if row["step"] <= step]
        assert (summary(tmp_path)["status"], summary(tmp_path)["step"]) == ("preempted", step)
        assert_same_bits(saved_state(tmp_path).step, np.int32(step))
    train_tiny(tmp_path)
    assert rows(tmp_path) == whole
    assert_same_bits(saved_state(tmp_path), saved_state(finished_run))
    assert summary(tmp_path) == summary(finished_run)


def test_rows_past_the_checkpoint_are_written_anew(one_device, finished_run, tmp_path):
    """A run that died after step 6, of which the last checkpoint on disk is that of step 5."""
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints" / str(STEPS))
    metrics = run_dir / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 7, "spl')
    train_tiny(run_dir)
    assert rows(run_dir) == rows(finished_run)
    assert_same_bits(saved_state(run_dir), saved_state(finished_run))


def test_a_finished_run_is_left_as_it_is(one_device, finished_run, tmp_path, capsys):
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    assert train_tiny(run_dir) == min(row["loss"] for row in rows(finished_run) if row["split"] == "eval/held_out")
    assert "All 6 steps are done; write a larger steps=… to go on." in capsys.readouterr().out
    assert (run_dir / "metrics.jsonl").read_bytes() == (finished_run / "metrics.jsonl").read_bytes()
    assert summary(run_dir) == summary(finished_run)


def test_more_steps_continue_the_run(one_device, finished_run, tmp_path):
    """Checkpoints, rows and evaluations may be asked for anew, the path through the steps stays."""
    train_tiny(tmp_path, "steps=4", "checkpoint.every=100", "logger.every=2", "eval_every=4")
    train_tiny(tmp_path)
    assert rows(tmp_path)[-3:] == rows(finished_run)[-3:]
    assert_same_bits(saved_state(tmp_path), saved_state(finished_run))


@pytest.mark.slow
@pytest.mark.parametrize("moments", [(6,), pytest.param((1, 3, 8, 11), marks=pytest.mark.nightly)])
def test_killed_at_random_moments(user_environment, tmp_path, moments):
    """SIGKILL, in processes of their own, after so many rows, while steps, evaluations or checkpoints are under way."""
    steps = 16

    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "evotrain", *TINY, f"run_dir={tmp_path / name}", f"steps={steps}"]
        return subprocess.Popen(command, env=user_environment, stdout=subprocess.DEVNULL)

    assert start("whole").wait(PATIENCE) == 0
    seconds = random.Random(0)
    killed = tmp_path / "killed" / "metrics.jsonl"
    for lines in moments:
        process = start("killed")
        wait_for_lines(killed, lines, process)
        time.sleep(seconds.uniform(0, 0.2))
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
    assert start("killed").wait(PATIENCE) == 0
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert_same_bits(saved_state(tmp_path / "killed"), saved_state(tmp_path / "whole"))


def wait_for_lines(path: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, f"{path} never had {count} lines"
        time.sleep(0.005)


@pytest.mark.slow
def test_continued_with_a_worker_process(one_device, finished_run, tmp_path):
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Preempted):
        signal_in_step(monkeypatch, 3, signal.SIGTERM)
        train_tiny(tmp_path)
    train_tiny(tmp_path, "data.workers=1")
    assert rows(tmp_path) == rows(finished_run)
    assert_same_bits(saved_state(tmp_path), saved_state(finished_run))


# --- how runs end ----------------------------------------------------------------------------------------------------


def test_summary(finished_run):
    found = summary(finished_run)
    last = {row["split"]: row for row in rows(finished_run)}
    assert (found["status"], found["step"], found["examples_seen"]) == ("finished", STEPS, STEPS * BATCH_SIZE)
    assert found["device_kind"] == "cpu"
    assert found["parameters"] == sum(x.size for x in _leaves(saved_state(finished_run).params))
    assert found["versions"].keys() >= {"python", "jax", "flax", "orbax-checkpoint"}
    for split, prefix in (("train", ""), ("eval/held_out", "eval/held_out/")):
        for name in last[split].keys() - {"step", "split"}:
            assert found["metrics"][prefix + name] == last[split][name]


def _leaves(tree) -> list[np.ndarray]:
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


def test_a_second_signal_ends_the_run_at_once(one_device, tmp_path, monkeypatch):
    signal_in_step(monkeypatch, 3, signal.SIGINT, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path)
    assert summary(tmp_path)["status"] == "preempted"
    assert saved_state(tmp_path).step == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # given back


def test_gradients_that_are_not_finite_end_the_run_as_diverged(one_device, tmp_path, monkeypatch):
    replace_examples(monkeypatch, not_a_number(4, math.inf))
    with pytest.raises(run_module.Diverged, match="gradients of 2 steps in a row .* the last of them step 4: lower"):
        train_tiny(tmp_path, "optimizer.max_skipped=2")
    assert (summary(tmp_path)["status"], summary(tmp_path)["step"]) == ("diverged", 4)
    assert [row["skipped"] for row in rows(tmp_path) if row["split"] == "train"] == [0, 0, 1, 2]
    assert rows(tmp_path)[-1]["loss"] is None


def test_one_gradient_that_is_not_finite_is_left_out(one_device, tmp_path, monkeypatch):
    replace_examples(monkeypatch, not_a_number(4, 6))
    train_tiny(tmp_path, "optimizer.max_skipped=2", "checkpoint.keep=10")
    assert [row["skipped"] for row in rows(tmp_path) if row["split"] == "train"] == [0, 0, 1, 0, 0, 0]
    before, after, later = (saved_state(tmp_path, step) for step in (2, 3, 4))
    assert_same_bits(after[3:], before[3:])  # parameters, Adam's moments, average
    assert (after.step, after.examples) == (3, 3 * BATCH_SIZE)
    with pytest.raises(AssertionError):
        assert_same_bits(later.params, after.params)


def not_a_number(first: int, end: float):
    """Changes the examples from `first` up to `end`, so that their gradients are not finite."""

    def change(index: int, example: Example) -> Example:
        if first <= index < end:
            return example | {"msa_feat": np.full_like(example["msa_feat"], np.nan)}
        return example

    return change


def test_an_error_within_the_run_is_reported_as_failed(one_device, tmp_path, monkeypatch):
    def break_down(index: int, example: Example) -> Example:
        if index >= 6:
            raise DataError("The disk with the proteins is gone: plug it in.")
        return example

    replace_examples(monkeypatch, break_down)
    with pytest.raises(DataError, match="plug it in"):
        train_tiny(tmp_path)
    assert summary(tmp_path)["status"] == "failed"
    monkeypatch.undo()
