"""How a process learns which of a run's processes it is: from EVOTRAIN_* variables, or from its launcher through JAX.

Nothing here touches a device.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import jax
from jax._src import cloud_tpu_init, hardware_utils
from jax._src.clusters import ClusterEnv

from evotrain.errors import ConfigError, RunError

EXPLICIT = ("EVOTRAIN_COORDINATOR", "EVOTRAIN_PROCESSES", "EVOTRAIN_PROCESS")

# Everything that JAX reads to find its place in a SLURM step; the shell of an allocation has only some of them.
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
# What Google's machines tell a process of a TPU slice, the first that is set.
TPU_WORKERS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


def explicit_place(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize` that the EVOTRAIN_* variables give; None without them.

    Nothing is asked of JAX's detection, so every device of the machine is used unless JAX_LOCAL_DEVICE_IDS says which.

    Raises:
      ConfigError: the variables are incomplete or impossible.
    """
    given = [name for name in EXPLICIT if environ.get(name)]
    if not given:
        return None
    missing = [name for name in EXPLICIT if name not in given]
    if missing:
        raise ConfigError(f"{', '.join(given)} is set but {', '.join(missing)} is not: set all three, or none")
    coordinator, processes, process = (environ[name] for name in EXPLICIT)
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"EVOTRAIN_COORDINATOR={coordinator} must be host:port, for example 10.0.0.1:1234")
    if not (processes.isdecimal() and process.isdecimal() and int(process) < int(processes)):
        raise ConfigError(
            f"EVOTRAIN_PROCESS={process} of EVOTRAIN_PROCESSES={processes} is impossible: number the processes from 0"
        )
    return {"coordinator_address": coordinator, "num_processes": int(processes), "process_id": int(process)}


def launched_with_others(environ: Mapping[str, str]) -> bool:
    """Whether a launcher that JAX knows has started this process as one of several.

    Raises:
      RunError: it has, for TPUs that JAX cannot use here.
    """
    if all(name in environ for name in SLURM_STEP) and int(environ["SLURM_NTASKS"]) > 1:
        return True
    if int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    return _in_tpu_slices(environ)


def detected_place(seconds: float) -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize` that JAX finds; it may wait `seconds` for a name or a server.

    Raises:
      RunError: it finds too little.
    """
    address, processes, process, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, int(seconds)
    )
    if address is None or processes is None or process is None:
        raise RunError(f"JAX does not know this launcher: set {', '.join(EXPLICIT)} for each process")
    found = {"coordinator_address": address, "num_processes": processes, "process_id": process}
    return found | ({} if devices is None else {"local_device_ids": devices})


def wants_cpu() -> bool:
    """Whether JAX_PLATFORMS asks for CPU devices, instead of leaving them for want of something better."""
    return (jax.config.jax_platforms or "").partition(",")[0] == "cpu"


def accelerator() -> str:
    """What accelerator the machine shows, whether or not JAX can use it; "none" if it is not to be used."""
    if wants_cpu():
        return "none"
    if hardware_utils.num_available_tpu_chips_and_device_id()[0]:
        return "TPU"
    gpu = hardware_utils.has_visible_nvidia_gpu() or hardware_utils.num_available_amd_gpus(1) > 0
    return "GPU" if gpu else "none"


def leave_out_libtpu() -> None:
    """Has JAX use the CPU where there is nothing else, if libtpu is installed: it may be there for its compiler alone
    (command=plan), and would look for TPUs at length and complain."""
    if not jax.config.jax_platforms and find_spec("libtpu") and accelerator() == "none":
        jax.config.update("jax_platforms", "cpu")


def _in_tpu_slices(environ: Mapping[str, str]) -> bool:
    usable = cloud_tpu_init.running_in_cloud_tpu_vm  # there are chips, and libtpu is installed
    workers = next(filter(None, map(environ.get, TPU_WORKERS)), None)
    slices = int(environ.get("MEGASCALE_NUM_SLICES") or "1")
    several = slices > 1 or (workers is not None and "," in workers)
    if not usable and (several or accelerator() == "TPU") and not wants_cpu():
        raise RunError(
            "this is a TPU machine, but JAX cannot use its chips: pip install 'evotrain[tpu]' on every machine, let "
            "containers see the chips, or set JAX_PLATFORMS=cpu to do without them"
        )
    if workers is not None or slices > 1:
        return several and usable
    # A Compute Engine TPU machine learns its neighbours from the metadata server, which JAX asks.
    return usable and "TPU_SKIP_MDS_QUERY" not in environ
