"""Start-up, identity, barriers and what processes tell each other, most of it with two."""

import os
import socket
import subprocess
import sys

import pytest

from evotrain.errors import RunError
from evotrain.parallel import distributed

PATIENCE = 120  # seconds that a started program may take at most; nothing here measures time


def test_one_process_needs_nothing() -> None:
    distributed.start()
    assert distributed.is_primary()
    assert distributed.process_count() == 1
    distributed.barrier("nobody else", 1)
    assert distributed.exchange("weight", 3, 1) == [3]
    assert distributed.device_kind() == "cpu"


def test_importing_and_starting_touches_no_device() -> None:
    program = (
        "from evotrain.parallel import distributed\n"
        "distributed.start(), distributed.is_primary(), distributed.process_count()\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RunError, match=f"{address}.*choose another port"):
            distributed._check_port_free(address)


def run_together(program: str, *, started: tuple[int, ...] = (0, 1)) -> list[tuple[int, str]]:
    """Runs `program` as the given processes of two and returns the exit code and the output of each."""
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    text = "from evotrain.errors import RunError\nfrom evotrain.parallel import devices, distributed\n" + program
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", text],
            env={
                **os.environ,
                "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
                "EVOTRAIN_COORDINATOR": address,
                "EVOTRAIN_PROCESSES": "2",
                "EVOTRAIN_PROCESS": str(process),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in started
    ]
    try:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.slow
def test_two_processes_compute_together() -> None:
    results = run_together(
        "distributed.start(seconds=60)\n"
        "import jax, numpy as np\n"
        "from jax.sharding import AxisType, NamedSharding, PartitionSpec as P\n"
        "distributed.barrier('again', 60), distributed.barrier('again', 60)\n"
        "mesh = jax.make_mesh((16,), ('data',), axis_types=(AxisType.Auto,))\n"
        "sharding = NamedSharding(mesh, P('data'))\n"
        "x = jax.make_array_from_callback((16,), sharding, lambda index: np.arange(16.0)[index])\n"
        "print(float(jax.jit(lambda x: x.sum())(x)), distributed.is_primary(), distributed.process_count())\n"
        "print('\\n'.join(devices.table()))\n"
        "print(distributed.exchange('weight', 3 + distributed.is_primary(), 60))\n"
    )
    for process, (code, output) in enumerate(results):
        assert code == 0, output
        assert f"120.0 {process == 0} 2" in output
        assert f"process 0  {socket.gethostname()}  8 × cpu" in output
        assert f"process 1  {socket.gethostname()}  8 × cpu" in output
        assert "[4, 3]" in output


@pytest.mark.slow
def test_a_barrier_that_one_never_reaches() -> None:
    (code, output), _ = run_together(
        "import time\n"
        "distributed.start(seconds=60)\n"
        "if not distributed.is_primary():\n"
        "    time.sleep(600)\n"
        "try:\n"
        "    distributed.barrier('restore', 1)\n"
        "except RunError as error:\n"
        "    print(error)\n"
        "    distributed.leave(9)\n"
    )
    assert code == 9, output
    assert "did not meet at the barrier 'restore' within 1 s" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "sentence"),
    [(0, "not all of the 2 processes reached"), (1, "process 1 could not join the coordinator")],
)
def test_a_process_that_stays_alone(process: int, sentence: str) -> None:
    program = (
        "try:\n"
        "    distributed.start(seconds=2)\n"
        "except RunError as error:\n"
        "    print(error)\n"
        "    distributed.leave(9)\n"
    )
    [(code, output)] = run_together(program, started=(process,))
    assert code == 9, output
    assert sentence in output
