"""Files as bytes, text or arrays: plain or gzip, never pickled, and one sentence for what cannot be read."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from evotrain.errors import DataError

_GZIP = b"\x1f\x8b"
_ZIP = b"PK"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_bytes(path: Path) -> bytes:
    """The file's content, decompressed if it is gzip whatever its name. Raises DataError if it cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is damaged gzip ({error}); copy the file again.") from None


def read_text(path: Path) -> bytes:
    """The file's text as bytes, decompressed, with '\\n' line ends. Raises DataError if it cannot be read."""
    data = read_bytes(path).removeprefix(_BYTE_ORDER_MARK)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\0" in data:  # MMseqs2 and ColabFold part blocks with it; at a line's start it must not shift line numbers
        data = data.replace(b"\n\0", b"\n").replace(b"\0", b"\n")
    return data


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that the `.npz` file holds. Raises DataError for another file; never unpickles."""
    data = read_bytes(path)
    if not data.startswith(_ZIP):
        raise DataError(f"{path}: is no .npz file; write one with numpy.savez (a pickle is never opened).")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: _member(path, file, name) for name in names if name in file}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as an .npz file ({error}); copy the file again.") from None


def _member(path: Path, file: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:  # pickled objects, or a damaged header
        raise DataError(f"{path}: {name} cannot be read as a plain array ({error}).") from None
