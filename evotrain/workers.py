"""Does pieces of work in worker processes, or in threads, and survives those that die or hang.

A worker process is a fresh interpreter that imports this module and what the work needs: not the program's main module,
and no JAX. Arrays come back through a block of memory that both processes map and that has no name, so that nothing is
left behind when either is killed; a worker ends when the connection to its parent does.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, Self

from evotrain.errors import DataError, EvotrainError
from evotrain.shared_memory import Placed, SharedBlock, anonymous_file

DEATHS = 3  # of workers at one piece of work, after which it is the work that kills them
START_SECONDS = 600  # for a worker to import what it needs, from a disk that a whole cluster may be reading
GRACE_SECONDS = 5  # for a killed process to be gone, or a thread to be done with its work

# A worker is one of many: its linear algebra must not take a thread per core.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PROGRAM = "import sys; sys.path[:] = sys.argv[3:]; from evotrain.workers import serve; serve(*sys.argv[1:3])"


def available_cores() -> int:
    """CPU cores that this process may use, which a cluster may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Up to `count` pieces of work at a time, each done by a worker process or else by a thread of this process.

    Args:
      work: a function of a key; pickled, for processes. A dict of arrays that it returns comes back without pickling.
      named: what the piece of a key is called in messages.
      minutes: after which a piece is given up.
      late: what to do about a piece that takes so long, for its message.
      deadly: what to do about a piece at which every worker process dies, for its message.
      warn: takes the message about a worker process that died and is replaced.
    """

    def __init__(
        self, work: Callable[[Any], Any], *, count: int, processes: bool, named: Callable[[Any], str],
        minutes: float, late: str, deadly: str, warn: Callable[[str], None],
    ):  # fmt: skip
        self._work, self._named, self._warn = work, named, warn
        self._minutes, self._late, self._deadly = minutes, late, deadly
        self._pickled = pickle.dumps(work) if processes else b""
        self._count = count
        self._closed = False
        self._lock = threading.Lock()  # of _closed and _running
        self._running: set[Worker] = set()
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()  # None: one that must be started first
        for _ in range(count):
            self._idle.put(None)

    def run(self, key: Any) -> Any:
        """What the work returns for `key`. To be called from several threads; a worker that dies is replaced.

        Raises:
          EvotrainError: what the work raised.
          DataError: it is not done after `minutes`, or every worker dies at it.
        """
        worker = self._idle.get()
        try:
            for death in range(1, DEATHS + 1):
                worker = worker or self._start()
                try:
                    return worker.do(key, 60 * self._minutes)
                except TimeoutError:
                    self._stop(worker)
                    worker = None
                    raise DataError(
                        f"{self._named(key)} is not ready after {self._minutes:g} minutes: {self._late}"
                    ) from None
                except WorkerDied:
                    cause, worker = self._stop(worker), None
                    if not self._closed and death < DEATHS:
                        self._warn(f"a worker process that prepared {self._named(key)} {cause}; another one does.")
            raise DataError(
                f"{DEATHS} worker processes died preparing {self._named(key)}, the last one {cause}: {self._deadly}"
            )
        finally:
            self._idle.put(worker)

    def run_all(self, keys: Iterable[Any], *, ahead: int) -> Iterator[Any]:
        """What `run` returns for each key, in their order; up to `ahead` keys that follow are under way meanwhile.

        Raises what `run` raises, when it is that key's turn.
        """
        waiting: deque[Future[Any]] = deque()
        threads = ThreadPoolExecutor(self._count)  # each waits for one worker
        try:
            for key in keys:
                waiting.append(threads.submit(self.run, key))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # what is under way ends with the workers

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> "Worker":
        with self._lock:
            if self._closed:
                raise WorkerDied
            worker = ProcessWorker(self._pickled) if self._pickled else ThreadWorker(self._work)
            self._running.add(worker)
            return worker

    def _stop(self, worker: "Worker") -> str:
        with self._lock:
            self._running.discard(worker)
        worker.stop()
        return worker.join(GRACE_SECONDS)


class WorkerDied(Exception):
    """A worker ended before its work was done."""


class Worker(Protocol):
    """What does one piece of work at a time."""

    def do(self, key: Any, seconds: float) -> Any:
        """What the work returns for `key`. Raises TimeoutError, WorkerDied, or what the work raises."""

    def stop(self) -> None:
        """Begins to end it and makes a waiting `do` fail. May be called twice, from any thread."""

    def join(self, seconds: float) -> str:
        """Waits until it has ended, at most so long, and says how it did."""


class ThreadWorker:
    """Works in this process, each piece in a daemon thread: one that hangs does not keep the process alive."""

    def __init__(self, work: Callable[[Any], Any]):
        self._work = work
        self._lock = threading.Lock()  # no thread starts once this is stopped
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._outcome: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def do(self, key: Any, seconds: float) -> Any:
        with self._lock:
            if self._stopped:
                raise WorkerDied
            self._thread = threading.Thread(target=self._do, args=(key,), name=f"work-{key}", daemon=True)
            self._thread.start()
        try:
            answer, error = self._outcome.get(timeout=seconds)
        except queue.Empty:
            self._thread = None  # it had its time, and is not waited for again
            raise TimeoutError from None
        if error is not None:
            raise error
        return answer

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
        self._outcome.put((None, WorkerDied()))

    def join(self, seconds: float) -> str:
        # A thread that comes back from C++ while the interpreter ends would abort the process.
        if (thread := self._thread) is not None:
            thread.join(seconds)
        return "ended"

    def _do(self, key: Any) -> None:
        try:
            self._outcome.put((self._work(key), None))
        except Exception as error:  # whatever it is, it is raised in the thread that asked
            self._outcome.put((None, error))


class ProcessWorker:
    """Works in a process of its own."""

    def __init__(self, work: bytes):
        self._connection, theirs = Pipe()
        self._block = SharedBlock(anonymous_file())
        descriptors = (theirs.fileno(), self._block.descriptor)
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, descriptors), *sys.path],
            pass_fds=descriptors,
            env=os.environ | ONE_THREAD,
            stdin=subprocess.DEVNULL,
            process_group=0,  # the terminal's Ctrl-C is for the loop, which saves first
        )
        theirs.close()
        self._work: bytes | None = work  # still to be sent

    def do(self, key: Any, seconds: float) -> Any:
        try:
            if self._work is not None:
                self._await_start()  # a pipe does not hold a large work for a process that does not listen yet
                self._connection.send_bytes(self._work)
                self._await_start()
                self._work = None
            self._connection.send(key)
            if not self._connection.poll(seconds):
                raise TimeoutError
            answer = self._connection.recv()
        except TimeoutError:
            raise
        except (EOFError, OSError):
            raise WorkerDied from None
        match answer:
            case EvotrainError():
                raise answer
            case Fault(text):
                raise RuntimeError(f"{key} could not be prepared:\n{text}")
            case [Placed(), *_]:
                return self._block.read(answer)
        return answer

    def _await_start(self) -> None:
        """Waits for the next sign of a process that is starting: it listens; it has imported what the work needs."""
        if not self._connection.poll(START_SECONDS):
            raise WorkerDied
        self._connection.recv()

    def stop(self) -> None:
        self._process.kill()

    def join(self, seconds: float) -> str:
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:  # it waits for a disk that does not answer
            return "cannot be ended"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class Fault(NamedTuple):
    """Where the work raised what is no EvotrainError."""

    text: str


def serve(connection: str, memory: str) -> None:
    """The life of a worker process: takes the work, then does it for the keys that come, one after another."""
    parent = Connection(int(connection))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(parent, requests), daemon=True).start()
    parent.send("listening")
    work: Callable[[Any], Any] = pickle.loads(requests.get())
    block = SharedBlock(int(memory))
    parent.send("ready")
    while True:
        key = pickle.loads(requests.get())
        try:
            answer = work(key)
            if isinstance(answer, dict):
                answer = block.write(answer)
        except EvotrainError as error:
            answer = error
        except Exception:
            answer = Fault(traceback.format_exc())
        with suppress(OSError):  # of a parent that has died; _listen ends this process
            parent.send(answer)


def _listen(parent: Connection, requests: queue.SimpleQueue[bytes]) -> None:
    """Receives at all times, so that a worker ends with its parent, even while it works or hangs."""
    try:
        while True:
            requests.put(parent.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)
