"""Processes that read proteins from raw files and turn them into records, in order and as many ahead as there is use.

A process that is killed, as the operating system does to one that takes too much memory, is replaced and its protein is
read again.
"""

import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Self

from evotrain.data.sets.facts import Facts, facts_of
from evotrain.data.sets.raw import RawSet
from evotrain.data.sets.records import encode_protein
from evotrain.errors import DataError, RunError

ATTEMPTS = 3
AHEAD = 4  # proteins that wait to be written, for each process


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What became of one protein: its record, or the reason why there is none."""

    name: str
    sources: list[tuple[str, int, int]]  # name, bytes and time of change of each file, from before it was read
    record: bytes = b""
    facts: Facts | None = None
    templates: int = 0
    failure: str = ""


def read_protein(source: RawSet, name: str) -> Reading:
    """Reads one protein in this process."""
    sources = stat_sources(source, name)
    try:
        protein = source.read(name)
    except DataError as error:
        return Reading(name=name, sources=sources, failure=str(error))
    return Reading(
        name=name,
        sources=sources,
        record=encode_protein(protein),
        facts=facts_of(protein),
        templates=0 if protein.templates is None else len(protein.templates.aatype),
    )


def stat_sources(source: RawSet, name: str) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change of every file that a protein is read from, as far as they are there."""
    found = []
    for path in source.files(name):
        with suppress(OSError):  # to read it will say why
            status = path.stat()
            found.append((path.name, status.st_size, status.st_mtime_ns))
    return found


class Readers:
    """`count` processes, started when they are first needed and ended by `close`; a context manager."""

    def __init__(self, source: RawSet, count: int):
        self._source, self._count = source, count
        self._threads = ThreadPoolExecutor(count)
        self._own = threading.local()  # each thread talks to a process of its own
        self._processes: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False

    def read(self, names: Iterable[str]) -> Iterator[Reading]:
        """The proteins in the order of `names`, each read somewhat before it is asked for.

        Raises:
          RunError: the process that reads a protein was killed, again and again.
        """
        waiting: deque[Future[Reading]] = deque()
        for name in names:
            waiting.append(self._threads.submit(self._read, name))
            if len(waiting) > AHEAD * self._count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """Ends the processes, in the middle of a protein if need be."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, name: str) -> Reading:
        for _ in range(ATTEMPTS):
            process = self._process()
            try:
                process.connection.send(name)
                answer = process.connection.recv()
            except (EOFError, OSError):
                self._forget(process)
                continue
            if isinstance(answer, str):
                raise RuntimeError(f"{name} could not be prepared:\n{answer}")
            return answer
        raise RunError(
            f"{name}: the process that reads it was killed {ATTEMPTS} times, perhaps for lack of memory: give the job "
            "more, or write a smaller prepare.workers=…; what is prepared so far is kept."
        )

    def _process(self) -> "_Process":
        """The process of this thread, started if there is none."""
        process = getattr(self._own, "process", None)
        if process is None:
            with self._lock:
                if self._closed:
                    raise RunError("The readers are closed.")
                process = self._own.process = _Process(self._source)
                self._processes.add(process)
        return process

    def _forget(self, process: "_Process") -> None:
        with self._lock:
            process.kill()
            self._processes.discard(process)
        self._own.process = None


class _Process:
    """A process that answers each id with a `Reading`, or with the traceback of a fault of ours."""

    def __init__(self, source: RawSet):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, source), daemon=True)
        # Ctrl-C is for the main process alone, and a process inherits what its parent's thread holds back.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        theirs.close()  # else its end would go unnoticed

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, source: RawSet) -> None:
    """Answers until the other side is closed, also by its death."""
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        try:
            answer = read_protein(source, name)
        except Exception:
            answer = traceback.format_exc()
        try:
            connection.send(answer)
        except BrokenPipeError:
            return
