"""Two processes train as one, and stop as one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import STEPS, TINY, rows, summary

PATIENCE = 400  # seconds that a started program may take at most; nothing here measures time
MESH = ["mesh.data=1", "mesh.fsdp=2"]

pytestmark = pytest.mark.slow


def start(repository: Path, run_dir: Path, *overrides: str, environment: dict[str, str]) -> subprocess.Popen:
    launcher = [sys.executable, str(repository / "launch" / "local.py"), "--processes", "2", "--"]
    return subprocess.Popen(
        [*launcher, *TINY, *MESH, f"run_dir={run_dir}", *overrides],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
    code, output = finish(start(repository, run_dir, environment=dict(os.environ)))
    assert code == 0, output
    return run_dir


def test_two_processes_come_to_the_numbers_of_one(together, finished_run):
    assert len(rows(together)) == len(rows(finished_run))
    for found, expected in zip(rows(together), rows(finished_run), strict=True):
        assert (found["step"], found["split"]) == (expected["step"], expected["split"])
        for name in ("loss", "loss/masked_msa", "loss/distogram"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), expected


def test_only_process_0_writes_beside_the_checkpoints(together):
    names = {path.name for path in together.iterdir()}
    assert names == {".lock", "config.yaml", "metrics.jsonl", "summary.json", "checkpoints"}
    assert [row["step"] for row in rows(together) if row["split"] == "train"] == list(range(1, STEPS + 1))
    assert summary(together)["status"] == "finished"


def test_stopped_together_and_continued(repository, together, tmp_path):
    run_dir = tmp_path / "run"
    process = start(repository, run_dir, "steps=2000", environment=dict(os.environ))
    deadline = time.monotonic() + PATIENCE
    metrics = run_dir / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 143, output
    stopped = summary(run_dir)
    assert stopped["status"] == "preempted", output
    assert rows(run_dir)[-1]["step"] == stopped["step"] < 2000

    # An even number, at which the run evaluates anyhow: it evaluates at its last step too.
    steps = max(STEPS, 2 * (stopped["step"] // 2 + 1))
    code, output = finish(start(repository, run_dir, f"steps={steps}", environment=dict(os.environ)))
    assert code == 0, output
    assert f"continues from step {stopped['step']}" in output
    assert [row for row in rows(run_dir) if row["step"] <= STEPS] == rows(together)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("resume=must", "error: resume=must, but "),
        ("mesh.data=3", "needs 6 devices, but there are 2"),
        ("init_from=nowhere", "error: nowhere is not the directory of a run"),
    ],
)
def test_a_mistake_ends_both(repository, tmp_path, override, sentence):
    code, output = finish(start(repository, tmp_path / "run", override, environment=dict(os.environ)))
    assert code == 2, output
    assert sentence in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()
