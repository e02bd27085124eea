"""Rehearses a run of several hosts on this machine's CPU.

    python launch/local.py --processes 2 --devices-per-process 4 -- name=rehearsal mesh.data=8

starts `python -m evotrain` that many times, joined as the processes of a pod are. The console shows process 0; what the
others print is kept and shown only if they fail. When one fails all are ended, and its exit code is returned. Ctrl-C
and SIGTERM are passed on to all of them, which then save and end.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 30  # to save a checkpoint after SIGTERM, before SIGKILL
POLL_SECONDS = 0.1
TAIL_LINES = 30
# Exit codes of a process that was asked to stop: evotrain's, and those of one that had not begun to listen yet.
STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT}


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    command = [sys.executable, "-m", "evotrain", *options.overrides]
    coordinator = f"127.0.0.1:{_free_port()}"
    with tempfile.TemporaryDirectory(prefix="evotrain-") as folder:
        logs = [Path(folder, f"process-{process}.log") for process in range(1, options.processes)]
        processes: list[subprocess.Popen] = []
        received = _forward_signals(processes)
        try:
            for process in range(options.processes):
                environment = _environment(coordinator, options.processes, process, options.devices_per_process)
                processes.append(_start(command, environment, logs[process - 1] if process else None))
            failed = _wait(processes, received)
        finally:
            _end(processes)
        if failed is not None and processes[failed].returncode < 0:
            print(f"process {failed} was killed by signal {-processes[failed].returncode}", file=sys.stderr)
        if failed:  # process 0 has shown what it had to say
            _show_tail(failed, logs[failed - 1])
        ended = processes if failed is None else [processes[failed]]
        code = next((process.returncode for process in ended if process.returncode), 0)
        return code if code >= 0 else 128 - code  # as a shell reports a signal


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], epilog="What follows -- goes to python -m evotrain unchanged."
    )
    parser.add_argument("--processes", type=int, default=2, help="processes to start (default: %(default)s)")
    parser.add_argument(
        "--devices-per-process", type=int, default=1, help="simulated devices of each (default: %(default)s)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what to run, after --")
    options = parser.parse_args(arguments)
    if options.processes < 1 or options.devices_per_process < 1:
        parser.error("--processes and --devices-per-process must be at least 1")
    # mesh.simulate would make its devices in every process, a second way to say what --devices-per-process says.
    if any(override.lstrip("+").startswith("mesh.simulate=") for override in options.overrides):
        parser.error("leave mesh.simulate out: --devices-per-process makes the devices")
    return options


def _environment(coordinator: str, processes: int, process: int, devices: int) -> dict[str, str]:
    environment = dict(os.environ)
    environment.update(
        EVOTRAIN_COORDINATOR=coordinator,
        EVOTRAIN_PROCESSES=str(processes),
        EVOTRAIN_PROCESS=str(process),
        JAX_PLATFORMS="cpu",
        # The last of two equal flags holds, so that a count already in the shell does not.
        XLA_FLAGS=f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip(),
    )
    return environment


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _start(command: list[str], environment: dict[str, str], log: Path | None) -> subprocess.Popen:
    """Starts one process, on the console or into `log`.

    It stands outside this terminal's process group: Ctrl-C reaches it once, through this program.
    """
    if log is None:
        return subprocess.Popen(command, env=environment, start_new_session=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _forward_signals(processes: list[subprocess.Popen]) -> list[int]:
    """Passes SIGINT and SIGTERM on to every process; returns the list that will hold those received."""
    received: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for process in processes:
            process.send_signal(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, forward)
    return received


def _wait(processes: list[subprocess.Popen], received: list[int]) -> int | None:
    """Waits until all have ended (None) or one has failed (its number); to end as `received` asks is no failure."""
    while True:
        codes = [process.poll() for process in processes]
        for process, code in enumerate(codes):
            if code and not (received and code in STOPPED):
                return process
        if None not in codes:
            return None
        time.sleep(POLL_SECONDS)


def _end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _show_tail(process: int, log: Path) -> None:
    lines = log.read_text(errors="replace").splitlines()
    print(f"process {process} failed; the end of its output:", file=sys.stderr)
    for line in lines[-TAIL_LINES:]:
        print(f"  {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
