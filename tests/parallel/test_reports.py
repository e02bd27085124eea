"""Reports reach process 0, each warning once, without anybody waiting for them."""

import json
import socket
from pathlib import Path

import pytest
from several_processes import PATIENCE, run_together, started_together
from tiny_run import TINY

from evotrain.parallel.reports import Reports


def test_one_process_keeps_its_own():
    reports = Reports()
    reports.send(["a torn file"])
    assert reports.received() == []
    assert reports.largest({"time/data_wait": 0.5}) == {"time/data_wait": 0.5}


@pytest.mark.slow
def test_process_0_collects_what_the_others_met():
    script = Path(__file__).with_name("host_reports.py")
    output, *_ = run_together(script, 4, lambda _: [])
    first, second, largest = json.loads(output)
    same = ["the same everywhere"] * 3
    assert first == [*(f"process {process} has a torn file" for process in (1, 2, 3)), *same]
    assert second == []
    assert largest == {"time/data_wait": 3, "time/example": 0}


@pytest.mark.nightly
def test_process_0_says_what_ended_another(tmp_path):
    """Though it waits for the other in a step."""
    script = Path(__file__).with_name("host_failure.py")
    overrides = [*TINY, "mesh.data=4", "batch_size=4", "eval_every=0", f"run_dir={tmp_path / 'run'}"]
    with started_together(script, 2, lambda _: overrides, errors=True) as (first, second):
        output, _ = first.communicate(timeout=PATIENCE)
        assert second.wait(PATIENCE) == 1
    assert first.returncode == 1, output
    host = socket.gethostname()
    assert output.splitlines()[-1] == f"error: process 1, on {host}, ended the run: family-0-0-10: its disk is gone."
