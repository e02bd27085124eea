"""Reports reach process 0, each warning once, without anybody waiting for them."""

import json
from pathlib import Path

import pytest
from several_processes import run_together

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
