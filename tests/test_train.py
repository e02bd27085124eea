"""Whole runs: the notebook's experiment, what a run leaves behind, evaluation, sweeps, the strict mode."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import BATCH_SIZE, SIZES, STEPS, TINY, rows, summary, train_tiny

from evotrain.cli import main
from evotrain.compose import compose
from evotrain.run import Run
from evotrain.train import train

PNG = b"\x89PNG\r\n\x1a\n"
PATIENCE = 300  # seconds that a started program may take at most; nothing here measures time


def evaluations(run_dir: Path) -> list[dict]:
    return [row for row in rows(run_dir) if row["split"] == "eval/held_out"]


@pytest.mark.nightly
def test_the_notebook(one_device, tmp_path):
    """Three steps of one block towards zero. The notebook's own code prints 3.67, 3.45 and 3.24 today."""
    train(compose(["+experiment=notebook", f"run_dir={tmp_path}"]))
    losses = [row["loss"] for row in rows(tmp_path) if row["split"] == "train"]
    assert len(losses) == 3
    assert losses[0] == pytest.approx(3.65, abs=0.2)
    assert losses[0] > losses[1] > losses[2]


# --- what a run leaves behind ----------------------------------------------------------------------------------------


def test_the_rows_of_a_run(finished_run):
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    train_rows = [line for line in lines if line["split"] == "train"]
    assert [row["step"] for row in train_rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in lines if row["split"] == "eval/held_out"] == [0, 2, 4, 6]
    for row in train_rows:
        assert row["examples"] == row["step"] * BATCH_SIZE
        assert row.keys() == {
            "step", "split", "loss", "loss/masked_msa", "loss/distogram", "masked_msa/accuracy", "grad_norm",
            "example_grad_norm", "clipped", "lr", "skipped", "examples", "data/substituted", "data/skipped",
            "time/step", "time/examples_per_second", "time/data_wait", "time/tflops_per_device", "time/example",
            "time/slowest_example", "time/worker_load",
        }  # fmt: skip
    contacts = {f"{kind}/precision_at_{cut}" for kind in ("contact", "permuted", "dca") for cut in ("L", "L2", "L5")}
    for row in evaluations(finished_run):
        assert row.keys() == contacts | {
            "step", "split", "loss", "loss/masked_msa", "loss/distogram", "masked_msa/accuracy",
            "masked_msa/perplexity", "contact/chance", "data/substituted",
        }  # fmt: skip
        assert row["masked_msa/perplexity"] == pytest.approx(math.exp(row["loss/masked_msa"]))


def test_the_files_of_a_run(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert names == {".lock", "config.yaml", "metrics.jsonl", "summary.json", "checkpoints"}
    best = min(evaluations(finished_run)[1:], key=lambda row: row["loss"])["step"]
    kept = {int(path.name) for path in (finished_run / "checkpoints").iterdir()}
    assert kept == {best, 5, 6}


def test_figures(one_device, tmp_path):
    train_tiny(tmp_path, "logger.figures=true", "steps=1")
    figures = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert figures.keys() == {"contacts.png", "distances.png", "learning_curves.png"}
    assert all(content.startswith(PNG) for content in figures.values())


@pytest.mark.slow
def test_a_run_from_another_directory(user_environment, finished_run, tmp_path):
    """In a process of its own, on its one device: the same rows as in this one."""
    command = [sys.executable, "-m", "evotrain", *TINY]
    result = subprocess.run(
        command, cwd=tmp_path, env=user_environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert os.listdir(tmp_path) == ["runs"]
    assert rows(tmp_path / "runs" / "tiny") == rows(finished_run)


# --- other beginnings ------------------------------------------------------------------------------------------------


def test_init_from_starts_with_the_best_parameters_of_another_run(one_device, finished_run, tmp_path, capsys):
    best = min(evaluations(finished_run)[1:], key=lambda row: row["loss"])
    train_tiny(tmp_path, f"init_from={finished_run}", "steps=1")
    assert f"starts from step {best['step']} of {finished_run}" in capsys.readouterr().out
    first = evaluations(tmp_path)[0]
    assert {**first, "step": best["step"]} == best
    # The same data, but Adam starts anew from other parameters.
    assert rows(tmp_path)[1]["grad_norm"] != rows(finished_run)[1]["grad_norm"]


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_of_a_run(one_device, finished_run, tmp_path, capfd):
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    assert main(["command=evaluate", f"run_dir={run_dir}", "evaluate.checkpoint=last"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "Step 6 of " in out
    for word in ("long-range contacts", "P@L/5", "model", "DCA", "permuted", "chance", "perplexity"):
        assert word in out
    found = json.loads((run_dir / "evaluate" / "coevolution-6" / "metrics.json").read_text())
    assert (found["step"], found["examples"]) == (6, 4)
    last = evaluations(run_dir)[-1]
    assert found["metrics"] == {name: value for name, value in last.items() if name not in ("step", "split")}
    for name in ("contacts.png", "distances.png"):
        assert (run_dir / "evaluate" / "coevolution-6" / name).read_bytes().startswith(PNG)
    assert len(rows(run_dir)) == 10  # the run's own files are not touched


def test_evaluation_on_other_data(one_device, finished_run, repository, tmp_path, capfd):
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    data = ["data=msa_dir", f"data.root={repository / 'data' / 'sample'}", "data.crop=32", "data.msa_clusters=8"]
    assert main(["command=evaluate", f"run_dir={run_dir}", "evaluate.checkpoint=6", *data]) == 0, capfd.readouterr()
    (written,) = (run_dir / "evaluate").iterdir()
    found = json.loads((written / "metrics.json").read_text())
    assert (written.name, found["examples"]) == ("msa_dir-6", 2)
    assert math.isfinite(found["metrics"]["loss"])


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_sweep(one_device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = ["-m", *TINY, "steps=1", "data.coupling=1,2"]
    assert main(sweep) == 0
    trials = [tmp_path / "runs" / "tiny" / name for name in os.listdir("runs/tiny")]
    assert len(trials) == 2
    assert {summary(trial)["status"] for trial in trials} == {"finished"}
    assert len({rows(trial)[1]["grad_norm"] for trial in trials}) == 2
    before = {trial: (trial / "metrics.jsonl").read_bytes() for trial in trials}
    assert main(sweep) == 0  # each finds its own directory again, and that it has finished
    assert {trial: (trial / "metrics.jsonl").read_bytes() for trial in trials} == before


# --- the strict mode -------------------------------------------------------------------------------------------------


def test_the_loop_copies_nothing_implicitly_and_replicas_agree(one_device, finished_run, tmp_path, monkeypatch):
    aids = ("debug.transfer_guard=true", "debug.check_replicas=true")
    train_tiny(tmp_path / "clean", *aids, "steps=2")
    assert rows(tmp_path / "clean") == rows(finished_run)[:4]

    def stepped(self, metrics, notes):
        jax.numpy.add(metrics["loss"], np.ones(()))

    monkeypatch.setattr(Run, "stepped", stepped)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train_tiny(tmp_path / "unclean", *aids)


@pytest.mark.nightly
def test_the_strict_mode_finds_nothing(tmp_path):
    """No NaN, no implicit copy in the loop, no replicas that differ; the numbers stay. In a process of its own, since
    the mode holds for a process."""
    overrides = [*SIZES, "name=strict", "steps=2", "eval_every=1", "logger=files", "debug=strict", "batch_size=8"]
    mesh = ["mesh.simulate=8", "mesh.data=4", "mesh.fsdp=2"]
    result = subprocess.run(
        [sys.executable, "-m", "evotrain", *overrides, *mesh, f"run_dir={tmp_path}"],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert summary(tmp_path)["status"] == "finished"
