"""Starts a script as the processes of one run, with four simulated devices in all."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quick_compile import QUICK

DEVICES = 4
QUICK_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
PATIENCE = 400  # seconds; nothing here measures time


def run_together(script: Path, processes: int, arguments: Callable[[int], Sequence[str]]) -> list[str]:
    """Runs `script` in `processes` processes with the arguments of each, and returns what they printed."""
    with started_together(script, processes, arguments) as started:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes
    return outputs


@contextmanager
def started_together(
    script: Path, processes: int, arguments: Callable[[int], Sequence[str]], *, errors: bool = False
) -> Iterator[list[subprocess.Popen]]:
    """The processes while they run; those that are left in the end are killed. With `errors`, stderr goes to stdout."""
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments(process)],
            env=_environment(processes, process, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors else None,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()


def _environment(processes: int, process: int, port: int) -> dict[str, str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{QUICK_FLAGS} --xla_force_host_platform_device_count={DEVICES // processes}",
    }
    if processes > 1:
        environment |= {
            "EVOTRAIN_COORDINATOR": f"127.0.0.1:{port}",
            "EVOTRAIN_PROCESSES": str(processes),
            "EVOTRAIN_PROCESS": str(process),
        }
    return environment
