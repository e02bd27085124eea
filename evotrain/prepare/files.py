"""How `command=prepare` writes: a file is there whole or not at all, also where several jobs write at once."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evotrain.run_dir import DISK_ERRORS, disk_errors


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` if all goes well and disappears if not.

    Raises:
      RunError: the disk is full, read-only or forbidden.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    with writing(path):
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except FileNotFoundError:
            if not path.exists():  # else another job has made the same file, and tidied up
                raise
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a full, read-only or forbidden disk makes of writing `path` into a RunError.

    ArrayRecord reports the operating system's words in a RuntimeError.
    """
    with disk_errors(path, "prepare.out"):
        try:
            yield
        except RuntimeError as error:
            for code in DISK_ERRORS:
                if os.strerror(code) in str(error):
                    raise OSError(code, os.strerror(code)) from error
            raise


def as_json(content: Any) -> bytes:
    """The same bytes for the same content, all ASCII: a path may hold what is no UTF-8."""
    return (json.dumps(content, indent=1) + "\n").encode()
