import gzip
import io

import numpy as np
import pytest

from evotrain.data.formats.files import read_arrays, read_bytes, read_text
from evotrain.errors import DataError


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
