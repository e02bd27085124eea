"""Files as bytes, text or arrays: plain or gzip, never pickled, and one sentence for what cannot be read."""

import errno
import gzip
import io
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from lzma import LZMAError
from os.path import splitext
from pathlib import Path
from typing import TypeVar

import numpy as np

from evotrain.errors import DataError, RunError

T = TypeVar("T")

# Faults of a path, which another attempt finds again. All others are of the disk or network, and may pass.
LASTING_ERRORS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG}
PAUSES = (1.0, 4.0)  # seconds before the second and the third attempt

_GZIP = b"\x1f\x8b"
_ZIP = b"PK"
# What zipfile and numpy raise for damage, and for what they do not read, as encrypted members.
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zlib.error, LZMAError, zipfile.BadZipFile)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_bytes(path: Path) -> bytes:
    """The file's content, decompressed if it is gzip whatever its name.

    Raises DataError if it cannot be read, RunError if that is no fault of the file (`patiently`).
    """
    try:
        data = patiently(path, path.read_bytes)
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


def patiently(path: Path, action: Callable[[], T]) -> T:
    """What `action` returns; a fault of the disk or network that `path` is on is given two more attempts.

    Raises OSError, one of LASTING_ERRORS, for a fault of the path, and RunError for another that does not pass: what
    is shown must not depend on the hour, so that no file is left out for it.
    """
    for pause in (*PAUSES, None):
        try:
            return action()
        except OSError as error:
            if error.errno in LASTING_ERRORS:
                raise
            if pause is None:
                raise RunError(
                    f"{path}: cannot be read, in {1 + len(PAUSES)} attempts ({error.strerror}): see to the disk or "
                    "network that it is on, and start again."
                ) from error
            time.sleep(pause)
    raise AssertionError


def is_file(path: Path) -> bool:
    """Whether there is such a file that may be looked at, links followed. Raises RunError as `patiently` does."""
    try:
        return stat.S_ISREG(patiently(path, path.stat).st_mode)
    except OSError:
        return False


def split_name(name: str) -> tuple[str, str]:
    """A file's name without its suffix, and the suffix without .gz."""
    return splitext(name.removesuffix(".gz"))


def read_text(path: Path) -> bytes:
    """The file's text as bytes, decompressed, with '\\n' line ends. Raises as `read_bytes` does."""
    data = read_bytes(path).removeprefix(_BYTE_ORDER_MARK)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\0" in data:  # MMseqs2 and ColabFold part blocks with it; at a line's start it must not shift line numbers
        data = data.replace(b"\n\0", b"\n").replace(b"\0", b"\n")
    return data


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that the `.npz` file holds; never unpickles.

    Raises DataError for another or a damaged file, RunError as `read_bytes` does.
    """
    data = read_bytes(path)
    if not data.startswith(_ZIP):
        raise DataError(f"{path}: is no .npz file; write one with numpy.savez (a pickle is never opened).")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: _member(path, file, name) for name in names if name in file}
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as an .npz file ({error}); copy the file again.") from None


def _member(path: Path, file: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        array = file[name]
    except ValueError as error:  # pickled objects, or a damaged header
        raise DataError(f"{path}: {name} cannot be read as a plain array ({error}).") from None
    if not isinstance(array, np.ndarray):  # numpy gives the bytes of a file that is none of its own
        raise DataError(f"{path}: {name} is no array; write the file with numpy.savez.")
    return array
