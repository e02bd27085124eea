"""Processes whose devices do not fit together are refused on all of them, before anything is compiled."""

import socket
from pathlib import Path

import jax
import pytest
from several_processes import run_together

from evotrain.errors import RunError
from evotrain.parallel import devices


def machine(accelerator: str, number: int) -> dict:
    return {"host": f"node{number}", "accelerator": accelerator}


def held(count: int, number: int, kind: str = "NVIDIA H100", platform: str = "gpu") -> dict:
    return {"host": f"node{number}", "index": number, "count": count, "kind": kind, "platform": platform}


@pytest.mark.parametrize(
    ("accelerators", "sentence"),
    [
        (
            ["GPU", "GPU", "none"],
            "process 2, on node2, sees no accelerator, but process 0, on node0, a GPU: start all on machines of one "
            "kind, or set JAX_PLATFORMS=cpu for all processes to do without accelerators",
        ),
        (["none", "TPU"], "process 1, on node1, sees a TPU, but process 0, on node0, no accelerator: start all on"),
    ],
)
def test_machines_of_two_kinds(accelerators, sentence):
    with pytest.raises(RunError, match=sentence):
        devices._check_alike([machine(*pair) for pair in zip(accelerators, range(3), strict=False)])
    devices._check_alike([machine("GPU", 0), machine("GPU", 1)])


def test_processes_that_lack_devices(monkeypatch):
    monkeypatch.setattr(devices.launchers, "wants_cpu", lambda: False)
    devices._check_found([held(4, 0), held(4, 1)])
    with pytest.raises(RunError, match="process 1, on node1, has 3 × NVIDIA H100, but process 0, on node0, 4 × NVIDIA"):
        devices._check_found([held(4, 0), held(3, 1), held(3, 2)])
    with pytest.raises(
        RunError, match=r"process 0, on node0, has no devices \(the driver is too old\): look at its log"
    ):
        devices._check_found([{"host": "node0", "failure": "the driver is too old"}, held(4, 1)])
    with pytest.raises(RunError, match="process 0, on node1, is process 1 for its accelerator: number"):
        devices._check_found([held(4, 1), held(4, 0)])
    # Where all have fallen back, nothing differs.
    fallen = [held(1, number, kind="cpu", platform="cpu") for number in range(2)]
    with pytest.raises(
        RunError, match="process 0, on node0, has no accelerator that JAX can use, only its CPU: install"
    ):
        devices._check_found(fallen)
    monkeypatch.setattr(devices.launchers, "wants_cpu", lambda: True)
    devices._check_found(fallen)


def test_one_process_has_what_it_has():
    devices.find()
    [line] = devices.table()
    assert line.startswith(f"process 0  {socket.gethostname()}  {jax.device_count()} × cpu  (devices 0, 1, ")


@pytest.mark.slow
def test_every_process_names_the_one_that_differs():
    outputs = run_together(Path(__file__).with_name("host_devices.py"), 2, lambda _: [])
    host = socket.gethostname()
    sentence = f"process 1, on {host}, has 3 × cpu, but process 0, on {host}, 2 × cpu: give every process the same"
    assert [sentence in output for output in outputs] == [True, True]
