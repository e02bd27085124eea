"""Several processes as one program: start-up, identity and barriers, each with a time limit.

Importing this module touches no device, and a run of one process passes through every function without delay.
"""

import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import cloud_tpu_init, distributed
from jax.experimental import multihost_utils

from evotrain.errors import ConfigError, EvotrainError, RunError

EXPLICIT = ("EVOTRAIN_COORDINATOR", "EVOTRAIN_PROCESSES", "EVOTRAIN_PROCESS")

# Everything that JAX reads to find its place in a SLURM step; the shell of an allocation has only some of them.
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def start(*, seconds: float = 300) -> None:
    """Joins the other processes of this run, where there are any. Call it before anything touches a device.

    The others are found through EVOTRAIN_COORDINATOR=host:port, EVOTRAIN_PROCESSES and EVOTRAIN_PROCESS, or else
    through what JAX knows of SLURM, Open MPI and TPU pods. A second call does nothing.

    Raises:
      ConfigError: the EVOTRAIN_* variables are incomplete or impossible.
      RunError: the processes did not find each other within `seconds`, or the coordinator's port is taken.
    """
    if jax.distributed.is_initialized():
        return
    arguments = _explicit(os.environ)
    if arguments is None:
        if not _launched_with_others(os.environ):
            return
        arguments = {}
    if arguments.get("process_id") == 0:
        _check_port_free(arguments["coordinator_address"])
    _initialize(arguments, seconds)


def is_primary() -> bool:
    """Whether this process writes the run directory, the console and W&B. Does not touch the devices."""
    return _state().process_id == 0


def process_count() -> int:
    """Processes of the run. Does not touch the devices."""
    return _state().num_processes


def device_kind() -> str:
    """The kind of the devices as their maker names it, for example "TPU v5p"; the same on every process."""
    return jax.devices()[0].device_kind


def barrier(name: str, seconds: float) -> None:
    """Waits until every process has arrived here. A name may be used again once all have passed.

    Raises:
      RunError: some process did not arrive within `seconds`.
    """
    if process_count() == 1:
        return
    try:
        _state().client.wait_at_barrier(name, timeout_in_ms=int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise RunError(
            f"the processes did not meet at the barrier {name!r} within {seconds:g} s: one of them is stuck or has "
            "died; look at the end of each process's log, then start the same command again to resume"
        ) from error


def from_process_0(value: Any) -> Any:
    """The JSON value that process 0 passed, on every process; every process must call it."""
    if process_count() == 1:
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(np.resize(data, size)).astype(np.uint8)))


def from_every_process(value: Any) -> list[Any]:
    """The JSON values that the processes passed, by process, on every process; every process must call it."""
    if process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    rows = multihost_utils.process_allgather(np.resize(data, sizes.max()))  # padded with anything
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


@contextmanager
def on_process_0() -> Iterator[bool]:
    """Around what process 0 does alone, where the value is true: its EvotrainError is raised on every process.

    Else the others would go on, wait for it, and be aborted by JAX with a stack trace.
    """
    failure: EvotrainError | None = None
    try:
        yield is_primary()
    except EvotrainError as error:
        failure = error
    sentence = from_process_0(failure and str(failure))
    if failure is not None:
        raise failure
    if sentence is not None:
        raise RunError(sentence)


@contextmanager
def on_every_process() -> Iterator[None]:
    """Around what every process does by itself: an EvotrainError of one is raised on every process, with its host."""
    failure: EvotrainError | None = None
    try:
        yield
    except EvotrainError as error:
        failure = error
    told = from_every_process(failure and f"process {_state().process_id}, on {socket.gethostname()}: {failure}")
    if failure is not None:
        raise failure
    for sentence in filter(None, told):
        raise RunError(sentence)


def start_table(*, seconds: float = 60) -> list[str]:
    """One line a process: its number, its host, its devices. Every process must call it.

    Raises:
      RunError: a process did not report within `seconds`.
    """
    hosts = _hosts(seconds)
    lines = []
    for process, host in enumerate(hosts):
        devices = [device for device in jax.devices() if device.process_index == process]
        names = ", ".join(str(device.id) for device in devices)
        kind = devices[0].device_kind if devices else "none"
        lines.append(f"process {process}  {host}  {len(devices)} × {kind}  (devices {names})")
    return lines


def leave(code: int) -> NoReturn:
    """Ends a process that has failed, at once.

    A normal exit would first wait for the others to exit too, minutes during which no launcher can see the failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _state() -> Any:
    # JAX has no public way to ask these without initialising the devices, nor a public barrier with a time limit.
    return distributed.global_state


def _explicit(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize` that the EVOTRAIN_* variables give; None without them."""
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


def _launched_with_others(environ: Mapping[str, str]) -> bool:
    """Whether a launcher that JAX knows has started this process as one of several."""
    if all(name in environ for name in SLURM_STEP) and int(environ["SLURM_NTASKS"]) > 1:
        return True
    if int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    if int(environ.get("MEGASCALE_NUM_SLICES", "1")) > 1:
        return True
    workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if workers:
        return "," in workers
    # A Compute Engine TPU machine learns its neighbours from the metadata server, which JAX asks.
    return cloud_tpu_init.running_in_cloud_tpu_vm and "TPU_SKIP_MDS_QUERY" not in environ


def _check_port_free(address: str) -> None:
    """JAX crashes on a port that is taken."""
    port = int(address.rpartition(":")[2])
    try:
        with socket.create_server(("", port)):
            pass
    except (OSError, OverflowError) as error:
        raise RunError(
            f"the coordinator cannot listen on port {port} of EVOTRAIN_COORDINATOR={address} ({error}): "
            "choose another port, the same for every process"
        ) from error


def _initialize(arguments: dict[str, Any], seconds: float) -> None:
    """Calls `jax.distributed.initialize` and gives up on it after `seconds`.

    When its own limit passes, JAX aborts the process with a C++ stack trace. So it runs in a thread, with a limit that
    it does not reach, and the time is kept here.
    """
    outcome: queue.Queue[Exception | None] = queue.Queue()

    def connect() -> None:
        try:
            jax.distributed.initialize(**arguments, initialization_timeout=int(10 * seconds) + 600)
            outcome.put(None)
        except Exception as error:  # whatever it is, it is raised below, in the thread that asked
            outcome.put(error)

    threading.Thread(target=connect, name="jax.distributed.initialize", daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise RunError(_not_reached(arguments, seconds)) from None
    if error is not None:
        raise RunError(
            f"the processes of this run could not be joined ({str(error).splitlines()[0]}): "
            f"set {', '.join(EXPLICIT)} for each process, or start them with srun or launch/local.py"
        ) from error


def _not_reached(arguments: dict[str, Any], seconds: float) -> str:
    if not arguments:
        return f"the processes of this run did not find each other within {seconds:g} s: see that all have started"
    address, processes, process = arguments["coordinator_address"], arguments["num_processes"], arguments["process_id"]
    if process == 0:
        return (
            f"not all of the {processes} processes reached the coordinator {address} within {seconds:g} s: see that "
            "all have started, with the same EVOTRAIN_COORDINATOR, and can connect to it"
        )
    return (
        f"process {process} could not join the coordinator {address} within {seconds:g} s: see that process 0 runs "
        f"there, that the port is open, and that all {processes} processes have started"
    )


def _hosts(seconds: float) -> list[str]:
    """The host name of each process."""
    state = _state()
    if process_count() == 1:
        return [socket.gethostname()]
    prefix = "evotrain/host"
    state.client.key_value_set(f"{prefix}/{state.process_id}", socket.gethostname(), allow_overwrite=True)
    try:
        return [
            state.client.blocking_key_value_get(f"{prefix}/{process}", int(seconds * 1000))
            for process in range(state.num_processes)
        ]
    except jax.errors.JaxRuntimeError as error:
        raise RunError(f"a process did not report its host within {seconds:g} s: look at each process's log") from error
