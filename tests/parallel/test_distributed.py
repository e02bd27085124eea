"""Start-up, identity and barriers: detection without processes, the rest with two."""

import os
import socket
import subprocess
import sys

import pytest

from evotrain.errors import ConfigError, RunError
from evotrain.parallel import distributed

PATIENCE = 120  # seconds that a started program may take at most; nothing here measures time

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        (SLURM, True),
        ({**SLURM, "SLURM_NTASKS": "1"}, False),
        # The shell of an allocation of four tasks is not one of the four.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_PROCESS_ADDRESSES": "a:8471,b:8471"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_launchers_are_recognized(environment: dict[str, str], several: bool) -> None:
    assert distributed._launched_with_others(environment) is several


def test_a_compute_engine_tpu_machine_asks_its_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.cloud_tpu_init, "running_in_cloud_tpu_vm", True)
    assert distributed._launched_with_others({})
    assert not distributed._launched_with_others({"TPU_SKIP_MDS_QUERY": "1"})


def test_explicit_variables() -> None:
    environment = {"EVOTRAIN_COORDINATOR": "[::1]:99", "EVOTRAIN_PROCESSES": "4", "EVOTRAIN_PROCESS": "3"}
    arguments = {"coordinator_address": "[::1]:99", "num_processes": 4, "process_id": 3}
    assert distributed._explicit(environment) == arguments
    assert distributed._explicit({}) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"EVOTRAIN_PROCESS": ""}, "EVOTRAIN_PROCESS is not: set all three"),
        ({"EVOTRAIN_COORDINATOR": "node1"}, "must be host:port"),
        ({"EVOTRAIN_PROCESS": "2"}, "number the processes from 0"),
        ({"EVOTRAIN_PROCESSES": "two"}, "number the processes from 0"),
    ],
)
def test_impossible_variables(changes: dict[str, str], sentence: str) -> None:
    environment = {"EVOTRAIN_COORDINATOR": "a:1", "EVOTRAIN_PROCESSES": "2", "EVOTRAIN_PROCESS": "0", **changes}
    with pytest.raises(ConfigError, match=sentence):
        distributed._explicit(environment)


def test_one_process_needs_nothing() -> None:
    distributed.start()
    assert distributed.is_primary()
    assert distributed.process_count() == 1
    distributed.barrier("nobody else", 1)
    assert distributed.start_table() == [
        f"process 0  {socket.gethostname()}  8 × cpu  (devices 0, 1, 2, 3, 4, 5, 6, 7)"
    ]
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
    text = "from evotrain.errors import RunError\nfrom evotrain.parallel import distributed\n" + program
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", text],
            env={
                **os.environ,
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
        "print('\\n'.join(distributed.start_table()))\n"
    )
    for process, (code, output) in enumerate(results):
        assert code == 0, output
        assert f"120.0 {process == 0} 2" in output
        assert f"process 0  {socket.gethostname()}  8 × cpu" in output
        assert f"process 1  {socket.gethostname()}  8 × cpu" in output


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
