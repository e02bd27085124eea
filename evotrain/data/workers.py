"""Prepares single examples in worker processes, or in threads, and survives those that die or hang.

A worker process is a fresh interpreter that imports this module and what the source needs: not the program's main
module, and no JAX. Its examples come back through a block of memory that both processes map and that has no name, so
that nothing is left behind when either is killed; it ends when the connection to its parent does.
"""

import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple, Protocol

import numpy as np

from evotrain.data.sources import Example, Source
from evotrain.errors import DataError, EvotrainError

DEATHS = 3  # of workers at one example, after which it is the example that kills them
START_SECONDS = 600  # for a worker to import what it needs, from a disk that a whole cluster may be reading
GRACE_SECONDS = 5  # for a killed process to be gone, or a thread to be done with its example
ALIGNMENT = 64  # bytes; of arrays in shared memory

# A worker is one of many: its linear algebra must not take a thread per core.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PROGRAM = "import sys; sys.path[:] = sys.argv[3:]; from evotrain.data.workers import serve; serve(*sys.argv[1:3])"


class Workers:
    """Up to `count` examples at a time, each prepared by a worker process or else by a thread of this process."""

    def __init__(self, source: Source, *, count: int, processes: bool, minutes: float, warn: Callable[[str], None]):
        self._source, self._minutes, self._warn = source, minutes, warn
        self._pickled = pickle.dumps(source) if processes else b""
        self._closed = False
        self._lock = threading.Lock()  # of _closed and _running
        self._running: set[Worker] = set()
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()  # None: one that must be started first
        for _ in range(count):
            self._idle.put(None)

    def run(self, index: int) -> Example:
        """Training example `index`. To be called from several threads; a worker that dies is replaced.

        Raises:
          EvotrainError: what the source raised.
          DataError: the example is not ready after `minutes`, or every worker that prepares it dies.
        """
        worker = self._idle.get()
        try:
            for death in range(1, DEATHS + 1):
                worker = worker or self._start()
                try:
                    return worker.prepare(index, 60 * self._minutes)
                except TimeoutError:
                    self._stop(worker)
                    worker = None
                    raise DataError(
                        f"{self._named(index)} is not ready after data.timeout={self._minutes:g} minutes: look at its "
                        "files and at the disk that holds them, or allow more minutes."
                    ) from None
                except WorkerDied:
                    cause, worker = self._stop(worker), None
                    if not self._closed and death < DEATHS:
                        self._warn(f"a worker process that prepared {self._named(index)} {cause}; another one does.")
            raise DataError(
                f"{DEATHS} worker processes died preparing {self._named(index)}, the last one {cause}: if memory is "
                "short, lower data.workers or data.prefetch; else take this protein out of the data."
            )
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Ends the workers; calls of `run` that wait for them fail."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for worker in running:
            worker.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in running:
            worker.join(max(deadline - time.monotonic(), 0))

    def _start(self) -> "Worker":
        with self._lock:
            if self._closed:
                raise WorkerDied
            worker = ProcessWorker(self._pickled) if self._pickled else ThreadWorker(self._source)
            self._running.add(worker)
            return worker

    def _stop(self, worker: "Worker") -> str:
        with self._lock:
            self._running.discard(worker)
        worker.stop()
        return worker.join(GRACE_SECONDS)

    def _named(self, index: int) -> str:
        return f"example {index} ({self._source.name(index)})"


class WorkerDied(Exception):
    """A worker ended before its example was ready."""


class Worker(Protocol):
    """What prepares one example at a time."""

    def prepare(self, index: int, seconds: float) -> Example:
        """Training example `index`. Raises TimeoutError, WorkerDied, or what the source raises."""

    def stop(self) -> None:
        """Begins to end it and makes a waiting `prepare` fail. May be called twice, from any thread."""

    def join(self, seconds: float) -> str:
        """Waits until it has ended, at most so long, and says how it did."""


class ThreadWorker:
    """Prepares examples in this process, each in a daemon thread: one that hangs does not keep the process alive."""

    def __init__(self, source: Source):
        self._source = source
        self._lock = threading.Lock()  # no thread starts once this is stopped
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._outcome: queue.SimpleQueue[Example | Exception] = queue.SimpleQueue()

    def prepare(self, index: int, seconds: float) -> Example:
        with self._lock:
            if self._stopped:
                raise WorkerDied
            self._thread = threading.Thread(target=self._prepare, args=(index,), name=f"example-{index}", daemon=True)
            self._thread.start()
        try:
            outcome = self._outcome.get(timeout=seconds)
        except queue.Empty:
            self._thread = None  # it had its time, and is not waited for again
            raise TimeoutError from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
        self._outcome.put(WorkerDied())

    def join(self, seconds: float) -> str:
        # A thread that comes back from C++ while the interpreter ends would abort the process.
        if (thread := self._thread) is not None:
            thread.join(seconds)
        return "ended"

    def _prepare(self, index: int) -> None:
        try:
            self._outcome.put(self._source.train(index))
        except Exception as error:  # whatever it is, it is raised in the thread that asked
            self._outcome.put(error)


class ProcessWorker:
    """Prepares examples in a process of its own."""

    def __init__(self, source: bytes):
        self._connection, theirs = Pipe()
        self._block = SharedBlock(_anonymous_file())
        descriptors = (theirs.fileno(), self._block.descriptor)
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, descriptors), *sys.path],
            pass_fds=descriptors,
            env=os.environ | ONE_THREAD,
            stdin=subprocess.DEVNULL,
            process_group=0,  # the terminal's Ctrl-C is for the loop, which saves first
        )
        theirs.close()
        self._source: bytes | None = source  # still to be sent

    def prepare(self, index: int, seconds: float) -> Example:
        try:
            if self._source is not None:
                self._connection.send_bytes(self._source)
                if not self._connection.poll(START_SECONDS):
                    raise WorkerDied
                self._connection.recv()
                self._source = None
            self._connection.send(index)
            if not self._connection.poll(seconds):
                raise TimeoutError
            answer = self._connection.recv()
        except TimeoutError:
            raise
        except (EOFError, OSError):
            raise WorkerDied from None
        if isinstance(answer, EvotrainError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"preparing example {index} failed in a worker process:\n{answer}")
        return self._block.read(answer)

    def stop(self) -> None:
        self._process.kill()

    def join(self, seconds: float) -> str:
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:  # it waits for a disk that does not answer
            return "cannot be ended"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class Placed(NamedTuple):
    """Where an array lies in a block."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


class SharedBlock:
    """Memory for the arrays of one example, in a file without a name; it grows with the first example."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    def write(self, example: Example) -> list[Placed]:
        """Copies the arrays in, and returns what `read` needs to find them."""
        arrays = {name: np.asarray(x) for name, x in example.items()}
        placed, end = [], 0
        for name, x in arrays.items():
            placed.append(Placed(name, x.shape, x.dtype, end))
            end += -(-x.nbytes // ALIGNMENT) * ALIGNMENT
        if end > os.fstat(self.descriptor).st_size:
            os.ftruncate(self.descriptor, end)
        for place in placed:
            self._view(place)[...] = arrays[place.name]
        return placed

    def read(self, placed: list[Placed]) -> Example:
        """Copies of the arrays that the other process wrote."""
        return {place.name: self._view(place).copy() for place in placed}

    def _view(self, place: Placed) -> np.ndarray:
        size = os.fstat(self.descriptor).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.descriptor, size)
        return np.ndarray(place.shape, place.dtype, self._map, place.offset)

    def __del__(self) -> None:
        os.close(self.descriptor)


def serve(connection: str, memory: str) -> None:
    """The life of a worker process: takes the source, then prepares the examples asked for, one after another."""
    parent = Connection(int(connection))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(parent, requests), daemon=True).start()
    source: Source = pickle.loads(requests.get())
    block = SharedBlock(int(memory))
    parent.send("ready")
    while True:
        index = pickle.loads(requests.get())
        try:
            answer = block.write(source.train(index))
        except EvotrainError as error:
            answer = error
        except Exception:
            answer = traceback.format_exc()
        with suppress(OSError):  # of a parent that has died; _listen ends this process
            parent.send(answer)


def _listen(parent: Connection, requests: queue.SimpleQueue[bytes]) -> None:
    """Receives at all times, so that a worker ends with its parent, even while it prepares an example or hangs."""
    try:
        while True:
            requests.put(parent.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def _anonymous_file() -> int:
    """The descriptor of an empty file in memory that vanishes with the last process that has it open."""
    if sys.platform == "linux":
        return os.memfd_create("evotrain-example")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
