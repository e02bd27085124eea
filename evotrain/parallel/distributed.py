"""Several processes as one program: start-up, identity and barriers, each with a time limit.

Importing this module touches no device, and a run of one process passes through every function without delay.
"""

import atexit
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from evotrain.errors import EvotrainError, RunError
from evotrain.parallel import launchers
from evotrain.parallel.watch import Relay, Watch, bypass_proxies

_watch: Watch | None = None  # over this process, which can join a run once


def start(*, seconds: float = 300) -> None:
    """Joins the other processes of this run, where there are any. Call it before anything touches a device.

    The others are found through EVOTRAIN_COORDINATOR=host:port, EVOTRAIN_PROCESSES and EVOTRAIN_PROCESS, or else
    through what JAX knows of SLURM, Open MPI and TPU slices. From then on this process ends when another one dies. A
    second call does nothing.

    Raises:
      ConfigError: the EVOTRAIN_* variables are incomplete or impossible.
      RunError: the processes did not find each other within `seconds`, or the coordinator's port is taken.
    """
    if jax.distributed.is_initialized():
        return
    place = launchers.explicit_place(os.environ)
    if place is not None or launchers.launched_with_others(os.environ):
        _join(place, seconds)
    else:
        launchers.leave_out_libtpu()


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


def exchange(name: str, value: Any, seconds: float) -> list[Any]:
    """As `from_every_process`, without touching a device and with a time limit; a `name` can be used once.

    Raises:
      RunError: a process did not give its value within `seconds`.
    """
    if process_count() == 1:
        return [value]
    state, folder = _state(), f"evotrain/{name}"
    state.client.key_value_set(f"{folder}/{state.process_id}", json.dumps(value))
    found, deadline = [], time.monotonic() + seconds
    for process in range(state.num_processes):
        remaining = max(1, int(1000 * (deadline - time.monotonic())))
        try:
            found.append(json.loads(state.client.blocking_key_value_get(f"{folder}/{process}", remaining)))
        except jax.errors.JaxRuntimeError as error:
            raise RunError(
                f"process {process} did not tell its {name} within {seconds:g} s: look at the end of its log"
            ) from error
    return found


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


def leave(code: int, why: str | None = None) -> NoReturn:
    """Ends a process that has failed, at once; the others end too, and say `why`.

    A normal exit would first wait for the others to exit too, minutes during which no launcher can see the failure.
    """
    if why is not None:
        tell_others(why)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def tell_others(why: str) -> None:
    """Ends the other processes with a sentence: that this one ended the run, and `why`."""
    if _watch is not None:
        _watch.tell(why)


def blame_others() -> None:
    """After an error of JAX: if the death of another process is behind it, ends this one with a sentence about that.

    It may take a minute to find out. Returns if no other process has died.
    """
    if _watch is not None:
        _watch.wait_for_verdict()


def _state() -> Any:
    # JAX has no public way to ask these without initialising the devices, nor a public barrier with a time limit.
    return distributed.global_state


def _join(place: dict[str, Any] | None, seconds: float) -> None:
    """Calls `jax.distributed.initialize` for a place that is given, or else detected, and gives up after `seconds`.

    When its own limit passes, JAX aborts the process with a C++ stack trace. So it runs in a thread, with a limit that
    it does not reach, and the time is kept here.
    """
    outcome: queue.Queue[Exception | None] = queue.Queue()
    known = {} if place is None else dict(place)

    def connect() -> None:
        try:
            if place is None:
                known.update(launchers.detected_place(seconds))
            if known["num_processes"] > 1:
                _connect(known, seconds)
            outcome.put(None)
        except Exception as error:  # whatever it is, it is raised below, in the thread that asked
            outcome.put(error)

    threading.Thread(target=connect, name="jax.distributed.initialize", daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise RunError(_not_reached(known, seconds)) from None
    if isinstance(error, EvotrainError):
        raise error
    if error is not None:
        raise RunError(
            f"the processes of this run could not be joined ({str(error).splitlines()[0]}): "
            f"set {', '.join(launchers.EXPLICIT)} for each process, or start them with srun or launch/local.py"
        ) from error


def _connect(place: dict[str, Any], seconds: float) -> None:
    """Joins the processes of a run and begins to watch over them."""
    global _watch
    coordinator, process = place["coordinator_address"], place["process_id"]
    relay = None
    if process == 0:
        _check_port_free(coordinator)
    else:
        relay = Relay(coordinator)
        place = place | {"coordinator_address": relay.address}
    bypass_proxies(coordinator.rpartition(":")[0], "127.0.0.1")
    jax.distributed.initialize(
        **place, initialization_timeout=int(10 * seconds) + 600, cluster_detection_method="deactivate"
    )
    _watch = Watch(
        _state().client, process=process, processes=place["num_processes"], coordinator=coordinator, relay=relay,
        end=_end,
    )  # fmt: skip
    atexit.register(_watch.stop)  # before JAX's own, which waits for the others


def _end(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    leave(1)


def _check_port_free(address: str) -> None:
    """JAX crashes on a port that is taken."""
    port = int(address.rpartition(":")[2])
    try:
        with socket.create_server(("", port)):
            pass
    except (OSError, OverflowError) as error:
        raise RunError(
            f"the coordinator cannot listen on port {port} of {address} ({error}): choose another port, the same for "
            "every process, as EVOTRAIN_COORDINATOR=host:port or JAX_COORDINATOR_PORT=port"
        ) from error


def _not_reached(place: dict[str, Any], seconds: float) -> str:
    if not place:
        return (
            f"JAX did not find the other processes of this run within {seconds:g} s: see that all have started, or set "
            f"{', '.join(launchers.EXPLICIT)} for each"
        )
    address, processes, process = place["coordinator_address"], place["num_processes"], place["process_id"]
    if process == 0:
        return (
            f"not all of the {processes} processes reached the coordinator {address} within {seconds:g} s: see that "
            "all have started, with the same coordinator, and can connect to it"
        )
    return (
        f"process {process} could not join the coordinator {address} within {seconds:g} s: see that process 0 runs "
        f"there, that the port is open, and that all {processes} processes have started"
    )
