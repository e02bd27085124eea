"""Several processes train as one, and stop as one."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from several_processes import QUICK_FLAGS, run_together, started_together
from tiny_run import BATCH_SIZE, STEPS, TINY, rows, summary

PATIENCE = 400  # seconds that a started program may take at most; nothing here measures time
MESH = ["mesh.data=1", "mesh.fsdp=2"]
TRAINING = Path(__file__).with_name("training_host.py")

pytestmark = pytest.mark.slow


def start(repository: Path, run_dir: Path, *overrides: str) -> subprocess.Popen:
    launcher = [sys.executable, str(repository / "launch" / "local.py"), "--processes", "2", "--"]
    return subprocess.Popen(
        [*launcher, *TINY, *MESH, f"run_dir={run_dir}", *overrides],
        env=os.environ | {"XLA_FLAGS": QUICK_FLAGS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_lines(metrics: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.terminate()  # it ends its processes
    return process.returncode, output


@pytest.fixture(scope="module")
def together(repository, tmp_path_factory) -> Path:
    """The directory of a run of two processes."""
    run_dir = tmp_path_factory.mktemp("together") / "run"
    code, output = finish(start(repository, run_dir))
    assert code == 0, output
    return run_dir


def assert_same_losses(
    run_dir: Path, expected_dir: Path, *, splits: tuple[str, ...] = ("train", "eval/held_out")
) -> None:
    """The losses are those of the other run, as far as that goes."""
    expected_rows = [row for row in rows(expected_dir) if row["split"] in splits]
    for found, expected in zip(rows(run_dir), expected_rows, strict=False):
        assert (found["step"], found["split"]) == (expected["step"], expected["split"])
        for name in ("loss", "loss/masked_msa", "loss/distogram"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), expected
    assert len(rows(run_dir)) >= len(expected_rows)


def test_two_processes_come_to_the_numbers_of_one(together, finished_run):
    assert_same_losses(together, finished_run)
    assert len(rows(together)) == len(rows(finished_run))


def assert_read(folder: Path, held: list[set[int]]) -> None:
    """Each process has read the examples of the rows of a batch that it holds."""
    for process, expected in enumerate(held):
        *indices, _ = (folder / f"{process}.txt").read_text().split("\n")
        read = list(map(int, indices))
        read.remove(0)  # once for the shapes
        assert {index % BATCH_SIZE for index in read} == expected


def test_an_example_shared_within_each_process(finished_run, tmp_path):
    """The numbers of one device; each process reads what it holds; process 0 alone writes, to W&B too."""
    run_dir = tmp_path / "run"
    overrides = [*TINY, "mesh.data=2", "mesh.context=2", f"run_dir={run_dir}", "logger.wandb=offline"]
    run_together(TRAINING, 2, lambda _: [str(tmp_path), *overrides])
    assert_same_losses(run_dir, finished_run)
    assert_read(tmp_path, [{0}, {1}])
    names = {path.name for path in run_dir.iterdir()}
    assert names == {".lock", "config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "wandb", "wandb_id"}
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.parametrize(
    ("processes", "mesh", "held", "victim", "sentence"),
    [
        (
            2,
            ["mesh.data=1", "mesh.context=4"],
            [{0, 1}, {0, 1}],
            1,
            rf"process 1, on {socket.gethostname()}, has not been heard of for \d+ s, so it has died or .*",
        ),
        pytest.param(
            4,
            ["mesh.data=2", "mesh.context=2"],
            [{0}, {0}, {1}, {1}],
            0,
            r"process 0, at 127\.0\.0\.1:\d+, has ended",
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["two", "four"],
)
def test_an_example_shared_across_processes_of_which_one_is_killed(
    finished_run, tmp_path, processes, mesh, held, victim, sentence
):
    """Again the numbers of one device, and then, of all that are left, a sentence."""
    run_dir = tmp_path / "run"
    overrides = [*TINY, *mesh, f"run_dir={run_dir}", "steps=2000", "eval_every=0", "checkpoint.every=2000"]
    with started_together(TRAINING, processes, lambda _: [str(tmp_path), *overrides], errors=True) as started:
        wait_for_lines(run_dir / "metrics.jsonl", STEPS, started[0])
        started[victim].kill()
        for process in started:
            output, _ = process.communicate(timeout=PATIENCE)
            if process is started[victim]:
                continue
            assert process.returncode == 1, output
            remedy = "look at the end of its log, then start the same command again to resume"
            assert re.fullmatch(f"error: {sentence}: {remedy}", output.splitlines()[-1])
            assert "stack trace" not in output
            assert "Traceback" not in output
    assert_same_losses(run_dir, finished_run, splits=("train",))
    assert_read(tmp_path, held)


def test_only_process_0_writes_beside_the_checkpoints(together):
    names = {path.name for path in together.iterdir()}
    assert names == {".lock", "config.yaml", "metrics.jsonl", "summary.json", "checkpoints"}
    assert [row["step"] for row in rows(together) if row["split"] == "train"] == list(range(1, STEPS + 1))
    assert summary(together)["status"] == "finished"


def test_stopped_together_and_continued(repository, together, tmp_path):
    run_dir = tmp_path / "run"
    process = start(repository, run_dir, "steps=2000")
    wait_for_lines(run_dir / "metrics.jsonl", 4, process)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 143, output
    stopped = summary(run_dir)
    assert stopped["status"] == "preempted", output
    assert rows(run_dir)[-1]["step"] == stopped["step"] < 2000

    # An even number, at which the run evaluates anyhow: it evaluates at its last step too.
    steps = max(STEPS, 2 * (stopped["step"] // 2 + 1))
    code, output = finish(start(repository, run_dir, f"steps={steps}"))
    assert code == 0, output
    assert f"continues from step {stopped['step']}" in output
    assert [row for row in rows(run_dir) if row["step"] <= STEPS] == rows(together)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("resume=must", "error: resume=must, but "),
        pytest.param("mesh.data=3", "needs 6 devices, but there are 2", marks=pytest.mark.nightly),
        pytest.param("init_from=nowhere", "error: nowhere is not the directory of a run", marks=pytest.mark.nightly),
    ],
)
def test_a_mistake_ends_both(repository, tmp_path, override, sentence):
    code, output = finish(start(repository, tmp_path / "run", override))
    assert code == 2, output
    assert sentence in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()
