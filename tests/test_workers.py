"""Workers: threads and processes prepare the same, and neither death nor a hang of one goes unanswered."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from worker_sources import LargeSource, NumberSource, SurroundingsSource, TroubledSource

from evotrain.data.sources import Source
from evotrain.errors import DataError
from evotrain.workers import Workers, available_cores

PATIENCE = 60.0  # seconds; no test waits for it to pass
KINDS = pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])


@contextmanager
def opened(source: Source, *, processes: bool, count: int = 1, minutes: float = 10) -> Iterator[tuple[Workers, list]]:
    warnings: list[str] = []
    workers = Workers(
        source.train,
        count=count,
        processes=processes,
        named=lambda index: f"example {index} ({source.name(index)})",
        minutes=minutes,
        late="look at its files.",
        deadly="give it more memory.",
        warn=warnings.append,
    )
    try:
        yield workers, warnings
    finally:
        workers.close()


@KINDS
def test_examples_are_those_of_the_source(processes):
    """To the bit, of every size and kind, also when several are prepared at once."""
    with opened(NumberSource(), processes=processes, count=2) as (workers, warnings):
        with ThreadPoolExecutor(2) as threads:
            found = list(threads.map(workers.run, range(30)))
        assert warnings == []
    for index, example in enumerate(found):
        expected = NumberSource().train(index)
        assert example.keys() == expected.keys()
        for name, x in expected.items():
            assert (example[name].dtype, example[name].shape) == (np.asarray(x).dtype, np.shape(x))
            np.testing.assert_array_equal(example[name], x)


@KINDS
def test_what_the_source_raises_is_raised_and_the_worker_goes_on(processes, tmp_path):
    with opened(TroubledSource(tmp_path, {1: "no data", 2: "bug"}), processes=processes) as (workers, _):
        with pytest.raises(DataError, match=r"^number-1: the file is torn\.$"):
            workers.run(1)
        with pytest.raises((ZeroDivisionError, RuntimeError), match="a bug"):
            workers.run(2)
        assert workers.run(3)["index"] == 3


@KINDS
def test_an_example_that_hangs_ends_the_run_with_its_name(processes, tmp_path):
    """And with nothing else: what has hung is not waited for."""
    source = TroubledSource(tmp_path, {4: "hangs"})
    with opened(source, processes=processes, minutes=0.0001) as (workers, _), pytest.raises(DataError) as failure:
        workers.run(4)
    assert str(failure.value) == ("example 4 (number-4) is not ready after 0.0001 minutes: look at its files.")


@KINDS
def test_an_example_after_one_that_hung(processes, tmp_path):
    """What the hanging worker still brings is not taken for the next example."""
    with opened(TroubledSource(tmp_path, {4: "hangs"}), processes=processes, minutes=0.02) as (workers, _):
        with pytest.raises(DataError, match="example 4"):
            workers.run(4)
        assert workers.run(5)["index"] == 5


def test_a_killed_worker_is_replaced(tmp_path):
    with opened(TroubledSource(tmp_path, {2: "killed once"}), processes=True) as (workers, warnings):
        assert [int(workers.run(index)["index"]) for index in range(4)] == [0, 1, 2, 3]
        assert warnings == [
            "a worker process that prepared example 2 (number-2) was ended by SIGKILL; another one does."
        ]


def test_a_worker_killed_between_examples_is_replaced():
    with opened(SurroundingsSource(), processes=True) as (workers, warnings):
        first = int(workers.run(0)["process"])
        os.kill(first, signal.SIGKILL)
        assert workers.run(1)["process"] != first
        assert len(warnings) == 1


@pytest.mark.parametrize(
    ("trouble", "cause"), [("killed", "was ended by SIGKILL"), ("exits", "ended with exit code 3")]
)
def test_an_example_that_kills_every_worker_ends_the_run_with_its_name(trouble, cause, tmp_path):
    with opened(TroubledSource(tmp_path, {2: trouble}), processes=True) as (workers, warnings):
        with pytest.raises(DataError) as failure:
            workers.run(2)
        assert str(failure.value) == (
            f"3 worker processes died preparing example 2 (number-2), the last one {cause}: give it more memory."
        )
        assert len(warnings) == 2
        assert workers.run(3)["index"] == 3


def test_a_worker_is_out_of_the_terminals_reach_and_knows_no_jax():
    """A Ctrl-C goes to the foreground group, where the loop answers it."""
    with opened(SurroundingsSource(), processes=True) as (workers, _):
        found = workers.run(0)
        assert found["process"] != os.getpid()
        assert found["group"] != os.getpgrp()
        assert not found["jax"]


@KINDS
def test_all_of_several_in_order_and_no_further_ahead_than_asked(processes):
    asked: list[int] = []
    with opened(NumberSource(), processes=processes, count=2) as (workers, _):
        found = workers.run_all((asked.append(index) or index for index in range(9)), ahead=3)
        assert next(found)["index"] == 0
        assert asked == [0, 1, 2, 3]
        assert [int(example["index"]) for example in found] == list(range(1, 9))


@KINDS
def test_one_of_several_that_fails_is_met_at_its_turn(processes, tmp_path):
    with opened(TroubledSource(tmp_path, {2: "no data"}), processes=processes, count=2) as (workers, _):
        found = workers.run_all(range(9), ahead=3)
        assert [int(next(found)["index"]) for _ in range(2)] == [0, 1]
        with pytest.raises(DataError, match="number-2"):
            next(found)


def test_a_worker_takes_more_than_a_pipe_holds():
    """A large work is sent to a process that listens: before that, nobody would notice one that never starts."""
    with opened(LargeSource(np.arange(2**20)), processes=True) as (workers, _):
        assert workers.run(0)["sum"] == 2**20 * (2**20 - 1) // 2


def test_a_process_that_never_starts_is_given_up(monkeypatch):
    """However large the work is that waits for it."""
    monkeypatch.setattr("evotrain.workers.PROGRAM", "import threading; threading.Event().wait()")
    monkeypatch.setattr("evotrain.workers.START_SECONDS", 0.1)
    with opened(LargeSource(np.arange(2**20)), processes=True) as (workers, warnings):
        with pytest.raises(DataError, match="^3 worker processes died preparing example 0 "):
            workers.run(0)
        assert len(warnings) == 2


@KINDS
def test_closing_ends_what_is_under_way(processes, tmp_path, monkeypatch):
    monkeypatch.setattr("evotrain.workers.GRACE_SECONDS", 1)
    with ThreadPoolExecutor(1) as thread:
        with opened(TroubledSource(tmp_path, {0: "hangs"}), processes=processes) as (workers, warnings):
            waiting = thread.submit(workers.run, 0)
        assert waiting.exception(PATIENCE) is not None
        assert warnings == []


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_nothing_is_left_behind():
    before = set(os.listdir("/proc/self/fd"))
    with opened(SurroundingsSource(), processes=True) as (workers, _):
        pids = [int(workers.run(index)["process"]) for index in range(2)]
        os.kill(pids[0], signal.SIGKILL)
        pids.append(int(workers.run(2)["process"]))
    del workers
    assert set(os.listdir("/proc/self/fd")) == before
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    """A cluster gives a job a part of a machine."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert available_cores() == 2
    monkeypatch.delattr("os.sched_getaffinity")
    assert available_cores() == 64


PROGRAM = """
import sys
from pathlib import Path
from worker_sources import TroubledSource
from evotrain.workers import Workers
source = TroubledSource(Path("."), {0: "hangs"})
Workers(
    source.train, count=1, processes=True, named=str, minutes=10, late="", deadly="", warn=print
).run(0)
"""


def test_workers_die_with_their_parent(repository):
    """Killed as hard as can be, while its worker hangs; both hold the end of the pipe that is read here."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(repository), str(Path(__file__).parent)])}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"hangs\n"
        parent.kill()
        output, _ = parent.communicate(timeout=PATIENCE)
    assert output == b""
