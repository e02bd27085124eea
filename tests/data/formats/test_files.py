import errno
import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evotrain.data.formats import files
from evotrain.data.formats.files import is_file, read_arrays, read_bytes, read_text, split_name
from evotrain.errors import DataError, RunError


def _write(path, data):
    path.write_bytes(data)
    return path


def _npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_gzip_is_seen_from_the_content(tmp_path, name):
    content = b"a\0\r\nb" * 100
    assert read_bytes(_write(tmp_path / name, content)) == content
    assert read_bytes(_write(tmp_path / name, gzip.compress(content[:7]) + gzip.compress(content[7:]))) == content


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a\r\nb\rc\n", b"a\nb\nc\n"),
        (b"a\n\0b\n\0", b"a\nb\n"),
        (b"a\0b", b"a\nb"),
        (b"\xef\xbb\xbf>q", b">q"),
        (b"", b""),
    ],
)
def test_text_has_one_kind_of_line_end(tmp_path, content, text):
    assert read_text(_write(tmp_path / "x", content)) == text
    assert read_text(_write(tmp_path / "x", gzip.compress(content))) == text


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"x: no such file\.$"):
        read_bytes(tmp_path / "x")
    with pytest.raises(DataError, match=r": cannot be read \(Is a directory\)\.$"):
        read_bytes(tmp_path)
    whole = gzip.compress(bytes(range(256)) * 100)
    for damaged in (whole[:-10], whole[:20] + b"\xff\xff\xff\xff" + whole[24:], whole[:-8] + bytes(8)):
        with pytest.raises(DataError, match=r"x: is damaged gzip \(.*\); copy the file again\.$"):
            read_bytes(_write(tmp_path / "x", damaged))


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between attempts, which take no time."""
    taken = []
    monkeypatch.setattr(files.time, "sleep", taken.append)
    return taken


def _fail(monkeypatch, method, code, times):
    """Lets a method of paths fail so many times, then work."""
    works, failures = getattr(Path, method), [OSError(code, os.strerror(code))] * times

    def maybe(path, *args, **options):
        if failures:
            raise failures.pop()
        return works(path, *args, **options)

    monkeypatch.setattr(Path, method, maybe)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_a_fault_of_the_disk_that_passes_is_waited_out(tmp_path, monkeypatch, pauses, code):
    path = _write(tmp_path / "x", b"content")
    _fail(monkeypatch, "read_bytes", code, 2)
    assert read_bytes(path) == b"content"
    _fail(monkeypatch, "stat", code, 2)
    assert is_file(path)
    assert pauses == 2 * list(files.PAUSES)


@pytest.mark.parametrize(("method", "read"), [("read_bytes", read_bytes), ("stat", is_file)])
def test_a_fault_of_the_disk_that_stays_is_no_fault_of_the_file(tmp_path, monkeypatch, pauses, method, read):
    _fail(monkeypatch, method, errno.EIO, 3)
    with pytest.raises(RunError) as caught:
        read(tmp_path / "x")
    assert str(caught.value) == (
        f"{tmp_path}/x: cannot be read, in 3 attempts (Input/output error): see to the disk or network that it is on, "
        "and start again."
    )
    assert pauses == list(files.PAUSES)


@pytest.mark.parametrize("code", sorted(files.LASTING_ERRORS))
def test_a_fault_of_the_file_is_not_tried_again(tmp_path, monkeypatch, pauses, code):
    _fail(monkeypatch, "read_bytes", code, 1)
    with pytest.raises(DataError, match="x: "):
        read_bytes(tmp_path / "x")
    _fail(monkeypatch, "stat", code, 1)
    assert not is_file(tmp_path / "x")
    assert not is_file(tmp_path)
    assert not pauses


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("1abc.cif.gz", ("1abc", ".cif")), ("a.b.a3m", ("a.b", ".a3m")), ("msa", ("msa", "")), (".a3m", (".a3m", "")),
        ("x.gz", ("x", "")),
    ],
)  # fmt: skip
def test_stems_and_suffixes(name, parts):
    assert split_name(name) == parts


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_named_arrays(tmp_path, pack):
    path = _write(tmp_path / "x.npz", pack(_npz(a=np.arange(3), b=np.eye(2, dtype=np.float32))))
    arrays = read_arrays(path, ("b", "c"))
    assert list(arrays) == ["b"]
    np.testing.assert_array_equal(arrays["b"], np.eye(2))


def test_a_pickled_array_is_never_opened(tmp_path):
    path = _write(tmp_path / "x.npz", _npz(a=np.arange(3), b=np.array([b"x", None], object)))
    assert list(read_arrays(path, ("a",))) == ["a"]
    with pytest.raises(DataError, match=r"x.npz: b cannot be read as a plain array \(Object arrays"):
        read_arrays(path, ("a", "b"))
    with pytest.raises(DataError, match=r"x.pkl: is no .npz file; write one with numpy.savez \(a pickle is never"):
        read_arrays(_write(tmp_path / "x.pkl", b"\x80\x04]."), ("a",))


def test_a_truncated_npz_file(tmp_path):
    whole = _npz(a=np.random.default_rng(0).random(1000))
    with pytest.raises(DataError, match=r"x.npz: cannot be read as an .npz file \(.*\); copy the file again"):
        read_arrays(_write(tmp_path / "x.npz", whole[:4000]), ("a",))
    damaged = whole[:2000] + bytes(100) + whole[2100:]
    with pytest.raises(DataError, match="x.npz: "):
        read_arrays(_write(tmp_path / "x.npz", damaged), ("a",))


def _zip(method, name="a.npy", content=None):
    if content is None:
        array = io.BytesIO()
        np.save(array, np.arange(50))
        content = array.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return bytearray(file.getvalue())


def _encrypted(whole):
    """Says of the member that a password is needed, in its own header and in the directory at the end."""
    whole[6] |= 1
    whole[whole.index(b"PK\1\2") + 8] |= 1
    return whole


def _packed_otherwise(whole):
    whole[8] = whole[whole.index(b"PK\1\2") + 10] = 99
    return whole


def _torn(whole):
    whole[80:90] = b"\xff" * 10
    return whole


@pytest.mark.parametrize(
    ("harm", "method"),
    [(_encrypted, zipfile.ZIP_STORED), (_packed_otherwise, zipfile.ZIP_STORED)]
    + [(_torn, method) for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)],
)
def test_members_that_cannot_be_unpacked(tmp_path, harm, method):
    whole = _zip(method)
    np.testing.assert_array_equal(read_arrays(_write(tmp_path / "x.npz", whole), ("a",))["a"], np.arange(50))
    with pytest.raises(DataError, match=r"x.npz: cannot be read as an .npz file \("):
        read_arrays(_write(tmp_path / "x.npz", harm(whole)), ("a",))


def test_a_member_that_is_no_array(tmp_path):
    path = _write(tmp_path / "x.npz", _zip(zipfile.ZIP_STORED, "a", b"text"))
    with pytest.raises(DataError, match="x.npz: a is no array; write the file with numpy.savez"):
        read_arrays(path, ("a",))
