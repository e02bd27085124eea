"""Processes that read are replaced when they are killed, and files are written whole or not at all."""

import errno

import pytest
from deadly_set import DeadlySet
from made_sets import write_raw_set

from evotrain.errors import DataError, EvotrainError, RunError
from evotrain.prepare.files import whole
from evotrain.prepare.readers import Readers


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Seven proteins, of which p4 cannot be read."""
    names = [f"p{number}" for number in range(7)]
    return write_raw_set(tmp_path_factory.mktemp("made") / "raw", names, broken=("p4",))


def test_another_job_may_write_the_same_file(tmp_path):
    path = tmp_path / "file"
    with whole(path) as temporary:
        temporary.write_bytes(b"content")
        path.write_bytes(b"content")
        temporary.unlink()
    with pytest.raises(RunError, match="it was removed"), whole(tmp_path / "missing"):
        pass
    with pytest.raises(OSError, match="other"), whole(path) as temporary:
        temporary.write_bytes(b"new")
        raise OSError(errno.EIO, "other")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"content")]


def test_a_killed_process_is_replaced(raw, tmp_path):
    warnings: list[str] = []
    with Readers(DeadlySet(raw, tmp_path / "marker"), 2, warnings.append) as readers:
        names = ["p0", "p1", "p3", "p4", "p5"]
        readings = list(readers.read(names))
    assert [reading.name for reading in readings] == names
    assert [reading.name for reading in readings if reading.failure] == ["p4"]
    assert warnings == ["a worker process that prepared p1 was ended by SIGKILL; another one does."]


def test_a_process_that_is_killed_every_time_ends_the_job(raw, tmp_path):
    warnings: list[str] = []
    with (
        pytest.raises(DataError, match=r"^3 worker processes died preparing p1, .* smaller prepare\.workers=…"),
        Readers(DeadlySet(raw, tmp_path / "marker", always=True), 2, warnings.append) as readers,
    ):
        list(readers.read(["p0", "p1"]))
    assert len(warnings) == 2


def test_a_protein_that_is_never_read_ends_the_job(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("evotrain.prepare.readers.MINUTES", 0.05)
    with (
        pytest.raises(DataError, match=r"^p6 is not ready after 0\.05 minutes: .* What is prepared so far is kept\.$"),
        Readers(DeadlySet(raw, tmp_path / "marker"), 1, print) as readers,
    ):
        list(readers.read(["p0", "p6"]))


def test_a_fault_of_ours_shows_where_it_is(raw, tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"^p2 could not be prepared:\nTraceback(.|\n)*a fault of ours") as caught,
        Readers(DeadlySet(raw, tmp_path / "marker"), 1, print) as readers,
    ):
        list(readers.read(["p2"]))
    assert not isinstance(caught.value, EvotrainError)
