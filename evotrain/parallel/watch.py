"""Ends a process with a sentence when another process of its run has died.

Alone, it would wait for the dead one in a collective operation until JAX aborts it with a stack trace, or longer. Each
process says every few seconds, through JAX's key-value store, that it lives; process 0 hears when one of them falls
silent, and tells the others. When process 0 itself is gone, the others hear it from their relays or from the silence of
the store. The watch ends the process from a thread, since the main thread may be waiting in XLA.
"""

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

SILENT_SECONDS = 60.0  # after which a silent process is taken for dead; JAX aborts after 100
SUSPECT_SECONDS = 20.0  # the same when a collective operation has failed, as it does when a process dies
BEAT_SECONDS = 2.0
POLL_SECONDS = 1.0
GRACE_SECONDS = 6.0  # for the others to hear of it, and for the main thread to say better what it has met
ALIVE, ENDED = "evotrain/alive", "evotrain/ended"  # folders of the store: a key a process; one key
LEFT = "left"
REMEDY = "look at the end of its log, then start the same command again to resume"


class Relay:
    """The relay program between this process and the coordinator at `address`; see relay.py."""

    def __init__(self, address: str):
        host, _, port = address.rpartition(":")
        program = Path(__file__).with_name("relay.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(program), host.strip("[]"), port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process
        )
        self.address = f"127.0.0.1:{int(self._process.stdout.readline())}"
        self._lost = threading.Event()
        threading.Thread(target=self._listen, name="relay", daemon=True).start()

    def has_lost(self) -> bool:
        """Whether the coordinator has closed a connection."""
        return self._lost.is_set()

    def _listen(self) -> None:
        if self._process.stdout.readline():
            self._lost.set()


class Watch:
    """The threads that watch over a run of several processes, from start-up until `stop`."""

    def __init__(
        self, client: Any, *, process: int, processes: int, coordinator: str, relay: Relay | None,
        end: Callable[[str], None],
    ):  # fmt: skip
        """`client` is that of JAX's coordination service, `end` is called with the sentence and does not return."""
        self._client, self._process, self._others = client, process, set(range(processes)) - {process}
        self._coordinator, self._relay, self._end = coordinator, relay, end
        self._host = socket.gethostname()
        self._name = f"process {process}, on {self._host},"
        self._stopped = threading.Event()
        self._told: str | None = None  # by another process, why the run is over
        self._patience = SILENT_SECONDS
        # Seconds since each was heard, in which this process was awake: it may have been stopped itself.
        self._silent = dict.fromkeys(self._others if process == 0 else {0}, 0.0)
        self._beats: dict[str, str] = {}
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._beat, self._judge)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Lets this process go without the others taking it for dead."""
        self._stopped.set()
        self._threads[0].join(BEAT_SECONDS)
        self._set(f"{ALIVE}/{self._process}", LEFT)

    def tell(self, why: str) -> None:
        """Tells the others that this process ends the run, and why, unless it or another has said so before."""
        sentence = f"{self._name} ended the run: {why}"
        # In a thread: nobody answers any more if the coordinator is gone.
        thread = threading.Thread(target=self._set, args=(f"{ENDED}/why", sentence), daemon=True)
        thread.start()
        thread.join(BEAT_SECONDS)

    def wait_for_verdict(self) -> None:
        """Waits as long as it may take to learn that another process has died; returns if none has."""
        self._patience = min(self._patience, SUSPECT_SECONDS)
        time.sleep(SILENT_SECONDS + 2 * (BEAT_SECONDS + GRACE_SECONDS))

    def _set(self, key: str, value: str) -> None:
        with suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(key, value, allow_overwrite=key.startswith(ALIVE))

    def _beat(self) -> None:
        for number in itertools.count():
            with suppress(jax.errors.JaxRuntimeError):
                key = f"{ALIVE}/{self._process}"
                self._client.key_value_set(key, f"{number} {self._host}", allow_overwrite=True)
                if self._process == 0:
                    self._hear(dict(self._client.key_value_dir_get(f"{ALIVE}/")))
                else:
                    self._silent[0] = 0.0  # the store has answered
                for _, sentence in self._client.key_value_dir_get(f"{ENDED}/"):
                    self._told = None if sentence.startswith(self._name) else sentence
            if self._stopped.wait(BEAT_SECONDS):
                return

    def _hear(self, beats: dict[str, str]) -> None:
        for process in self._others:
            key = f"{ALIVE}/{process}"
            if beats.get(key) != self._beats.get(key) or beats.get(key) == LEFT:
                self._silent[process] = 0.0
        self._beats = beats

    def _judge(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            for process in self._silent:
                self._silent[process] += POLL_SECONDS
            sentence = self._verdict()
            if sentence is None:
                continue
            if self._process == 0 and self._told is None:
                self._set(f"{ENDED}/why", sentence)
            if not self._stopped.wait(GRACE_SECONDS):
                self._end(sentence)

    def _verdict(self) -> str | None:
        """Why this process cannot go on; None while it can."""
        if self._told is not None:
            return self._told
        if self._relay is not None and self._relay.has_lost():
            return f"process 0, at {self._coordinator}, has ended: {REMEDY}"
        silent = [process for process, seconds in self._silent.items() if seconds > self._patience]
        if not silent:
            return None
        if self._process != 0:
            return f"process 0, at {self._coordinator}, has not answered for {self._patience:g} s: {REMEDY}"
        _, _, host = self._beats.get(f"{ALIVE}/{silent[0]}", "").partition(" ")
        more = f" (and {len(silent) - 1} more)" if len(silent) > 1 else ""
        return (
            f"process {silent[0]}{host and f', on {host},'}{more} has not been heard of for {self._patience:g} s, so "
            f"it has died or its machine is out of reach: {REMEDY}"
        )


def bypass_proxies(*hosts: str) -> None:
    """Lets the processes of a run reach `hosts` directly, where the environment names a proxy for the internet."""
    if any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy")):
        known = next(filter(None, map(os.environ.get, ("no_grpc_proxy", "no_proxy", "NO_PROXY"))), None)
        os.environ.update(no_grpc_proxy=",".join(filter(None, (known, *hosts))))
        jax.config.update("jax_check_proxy_envs", False)  # its warning is no longer true
