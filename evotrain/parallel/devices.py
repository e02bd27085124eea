"""The devices of all processes of a run: whether each has its share, and a table of them."""

import queue
import socket
import threading
from typing import Any

import jax

from evotrain.errors import RunError
from evotrain.parallel import distributed, launchers

COMMON_REMEDY = "or set JAX_PLATFORMS=cpu for all processes to do without accelerators"


def find(*, seconds: float = 300) -> None:
    """Lets JAX find the devices of a run of several processes. Every process must call it, right after `start`.

    Raises:
      RunError: a process has no accelerator, or another number of devices than the others, or cannot say within
        `seconds`; raised on every process.
    """
    if distributed.process_count() == 1:
        return
    # Before JAX looks: where only some processes have a GPU, it would wait minutes for the GPUs of the others.
    host = socket.gethostname()
    machines = distributed.exchange("machine", {"host": host, "accelerator": launchers.accelerator()}, seconds)
    _check_alike(machines)
    found = distributed.exchange("devices", {"host": host} | _local_devices(seconds), seconds + 60)
    _check_found(found)


def table() -> list[str]:
    """One line a process: its number, its host, its devices. Every process must call it.

    Raises:
      RunError: a process did not report within a minute.
    """
    lines = []
    for process, host in enumerate(distributed.exchange("host", socket.gethostname(), 60)):
        devices = [device for device in jax.devices() if device.process_index == process]
        names = ", ".join(str(device.id) for device in devices)
        lines.append(f"process {process}  {host}  {len(devices)} × {devices[0].device_kind}  (devices {names})")
    return lines


def _local_devices(seconds: float) -> dict[str, Any]:
    """What JAX finds on this machine, or why it finds nothing. It may wait for other machines: in a thread, with a
    time limit."""
    outcome: queue.Queue[dict[str, Any]] = queue.Queue()

    def look() -> None:
        try:
            devices = jax.local_devices()
            kind, platform = devices[0].device_kind, devices[0].platform
            place = {"index": jax.process_index(), "count": len(devices)}
            outcome.put(place | {"kind": kind, "platform": platform})
        except Exception as error:  # whatever it is, every process will name it
            outcome.put({"failure": str(error).partition("\n")[0]})

    threading.Thread(target=look, name="devices", daemon=True).start()
    try:
        return outcome.get(timeout=seconds)
    except queue.Empty:
        return {"failure": f"JAX did not find them within {seconds:g} s"}


def _check_alike(machines: list[dict[str, Any]]) -> None:
    """Refuses machines of which some show an accelerator and some do not."""
    equipped = {found["accelerator"]: (process, found["host"]) for process, found in enumerate(machines)}
    if len(equipped) == 1:
        return
    process, found = next((p, m) for p, m in enumerate(machines) if m["accelerator"] != machines[0]["accelerator"])
    raise RunError(
        f"process {process}, on {found['host']}, sees {_named(found['accelerator'])}, but process 0, on "
        f"{machines[0]['host']}, {_named(machines[0]['accelerator'])}: start all on machines of one kind, "
        f"{COMMON_REMEDY}"
    )


def _named(accelerator: str) -> str:
    return "no accelerator" if accelerator == "none" else f"a {accelerator}"


def _check_found(processes: list[dict[str, Any]]) -> None:
    """Refuses processes without devices, without the accelerator that was to be used, or with unequal numbers."""
    for process, found in enumerate(processes):
        where = f"process {process}, on {found['host']},"
        if failure := found.get("failure"):
            raise RunError(f"{where} has no devices ({failure}): look at its log and at the driver of its accelerator")
        if found["platform"] == "cpu" and not launchers.wants_cpu():
            raise RunError(
                f"{where} has no accelerator that JAX can use, only its CPU: install evotrain[tpu] or evotrain[gpu] "
                f"there and look at the driver, {COMMON_REMEDY}"
            )
        if found["index"] != process:
            raise RunError(
                f"{where} is process {found['index']} for its accelerator: number the processes as that does "
                "(TPU_WORKER_ID on TPUs), or leave the EVOTRAIN_* variables out"
            )
    first = processes[0]
    for process, found in enumerate(processes):
        if (found["count"], found["platform"]) != (first["count"], first["platform"]):
            raise RunError(
                f"process {process}, on {found['host']}, has {found['count']} × {found['kind']}, but process 0, on "
                f"{first['host']}, {first['count']} × {first['kind']}: give every process the same number of devices "
                "of one kind"
            )
