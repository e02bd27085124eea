"""How a process finds its place in a run: the variables of each launcher, without processes."""

import os
from collections.abc import Mapping

import pytest

from evotrain.errors import ConfigError, RunError
from evotrain.parallel import launchers

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "16",
    "OMPI_COMM_WORLD_RANK": "9",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
# What GKE gives a pod of a JobSet with two slices of two machines.
JOBSET = {
    "TPU_WORKER_HOSTNAMES": "localhost,pod-1",
    "TPU_WORKER_ID": "1",
    "TPU_SKIP_MDS_QUERY": "true",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
}


@pytest.fixture
def on_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX takes this machine for one with TPU chips."""
    for module in ("cloud_tpu_init", "clusters.cluster", "clusters.cloud_tpu_cluster"):
        monkeypatch.setattr(f"jax._src.{module}.running_in_cloud_tpu_vm", True)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    """Puts a launcher's variables in the place of all others'."""

    def put(environment: Mapping[str, str]) -> None:
        for name in os.environ:
            if name.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JAX_COORDINATOR")):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return put


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
    ],
)
def test_launchers_are_recognized(environment, several):
    assert launchers.launched_with_others(environment) is several


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_SKIP_MDS_QUERY": "true"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_PROCESS_ADDRESSES": "a:8471,b:8471"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, True),
        (JOBSET, True),
        # A Compute Engine TPU machine learns its neighbours from the metadata server.
        ({}, True),
        ({"TPU_SKIP_MDS_QUERY": "1"}, False),
    ],
)
def test_tpu_slices_are_recognized(on_tpu, environment, several):
    assert launchers.launched_with_others(environment) is several


def test_tpu_machines_of_which_jax_cannot_use_the_chips(monkeypatch):
    monkeypatch.setattr(launchers, "wants_cpu", lambda: False)
    with pytest.raises(RunError, match=r"pip install 'evotrain\[tpu\]'"):
        launchers.launched_with_others(JOBSET)
    assert not launchers.launched_with_others({})
    # Without libtpu, a Compute Engine TPU machine shows its chips and nothing else.
    monkeypatch.setattr(launchers.hardware_utils, "num_available_tpu_chips_and_device_id", lambda: (4, None))
    with pytest.raises(RunError, match=r"pip install 'evotrain\[tpu\]'"):
        launchers.launched_with_others({})
    monkeypatch.undo()  # this suite asks for CPU devices
    assert not launchers.launched_with_others(JOBSET)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (SLURM, {"coordinator_address": "node1:61447", "num_processes": 2, "process_id": 1, "local_device_ids": [1]}),
        (
            OPEN_MPI,
            {"coordinator_address": "10.96.0.1:62624", "num_processes": 16, "process_id": 9, "local_device_ids": [1]},
        ),
    ],
    ids=["SLURM", "Open MPI 4"],
)
def test_places_that_jax_finds(only, environment, place):
    only(environment)
    assert launchers.detected_place(1) == place


def test_the_place_in_a_jobset_of_tpu_slices(only, on_tpu):
    only(JOBSET)
    found = launchers.detected_place(1)
    assert found == {"coordinator_address": "localhost:8482", "num_processes": 4, "process_id": 3}


def test_a_launcher_that_jax_does_not_know(only):
    only({})
    with pytest.raises(RunError, match="does not know this launcher: set EVOTRAIN_COORDINATOR"):
        launchers.detected_place(1)


def test_explicit_variables():
    environment = {"EVOTRAIN_COORDINATOR": "[::1]:99", "EVOTRAIN_PROCESSES": "4", "EVOTRAIN_PROCESS": "3"}
    arguments = {"coordinator_address": "[::1]:99", "num_processes": 4, "process_id": 3}
    assert launchers.explicit_place(environment | SLURM) == arguments
    assert launchers.explicit_place(SLURM) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"EVOTRAIN_PROCESS": ""}, "EVOTRAIN_PROCESS is not: set all three"),
        ({"EVOTRAIN_COORDINATOR": "node1"}, "must be host:port"),
        ({"EVOTRAIN_PROCESS": "2"}, "number the processes from 0"),
        ({"EVOTRAIN_PROCESSES": "two"}, "number the processes from 0"),
    ],
)
def test_impossible_variables(changes, sentence):
    environment = {"EVOTRAIN_COORDINATOR": "a:1", "EVOTRAIN_PROCESSES": "2", "EVOTRAIN_PROCESS": "0", **changes}
    with pytest.raises(ConfigError, match=sentence):
        launchers.explicit_place(environment)


def test_cpu_devices_are_asked_for(monkeypatch):
    assert launchers.wants_cpu()
    assert launchers.accelerator() == "none"
    monkeypatch.setattr(launchers, "wants_cpu", lambda: False)
    monkeypatch.setattr(launchers.hardware_utils, "has_visible_nvidia_gpu", lambda: True)
    assert launchers.accelerator() == "GPU"
