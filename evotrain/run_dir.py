"""The run directory: where a run keeps what it writes, who may write there, and how a file gets there whole.

Every file is replaced atomically or appended to by complete lines, so that a run that is killed at any instant leaves
nothing that its successor cannot read.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from evotrain.errors import RunError

DISK_ERRORS = {
    errno.ENOSPC: "the disk is full: free some space and start the same command again, it continues by itself",
    errno.EDQUOT: "your quota is used up: free some space and start the same command again, it continues by itself",
    errno.EROFS: "the file system is read-only: choose a writable {key}=…",
    errno.EACCES: "permission is denied: choose a {key}=… that you may write to",
    errno.EPERM: "permission is denied: choose a {key}=… that you may write to",
    errno.ENOTDIR: "a part of the path is a file, not a directory: choose another {key}=…",
    errno.EEXIST: "a file stands where the directory should be: choose another {key}=…",
    errno.ENOENT: "no directory can be made there, or it was removed: choose another {key}=…",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter {key}=…",
}
LOCK = ".lock"
# Some cluster file systems are mounted without locks; there the run goes on unprotected, and says so.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def disk_errors(path: Path | str, key: str = "run_dir") -> Iterator[None]:
    """Turns the OSErrors of a full, read-only or forbidden disk into a RunError about `path`; others pass.

    `key` is that of the configuration which chose the path.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise RunError(f"cannot write {path}: {DISK_ERRORS[error.errno].format(key=key)}") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Replaces the file at `path` by `content`: a reader, or a run killed midway, meets the old file or the new one.

    Raises:
      RunError: the disk is full, read-only or forbidden.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


class RunDir:
    """The paths of a run directory, and with `open` the exclusive right to write there.

    Processes other than 0 construct it for its paths alone; process 0 opens it.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._lock: int | None = None
        self._made = False  # by `open`

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Creates the directory and holds its lock until `close` or the death of the process.

        Raises:
          RunError: another live process holds the lock, or the directory cannot be created or written.
        """
        run_dir = cls(path)
        with disk_errors(run_dir.path):
            run_dir._made = not run_dir.path.exists()
            run_dir.path.mkdir(parents=True, exist_ok=True)
            run_dir._lock = _acquire(run_dir.path)
        return run_dir

    def close(self) -> None:
        """Gives up the lock; the lock file stays, since to remove it would race with the next holder.

        Only a directory that `open` made, and that a run which was refused at once left empty, is removed.
        """
        if self._lock is None:
            return
        if self._made and {entry.name for entry in self.path.iterdir()} <= {LOCK, self.checkpoints.name}:
            with suppress(OSError):  # there are checkpoints after all
                if self.checkpoints.exists():
                    self.checkpoints.rmdir()
                (self.path / LOCK).unlink()
                self.path.rmdir()
        os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def wandb_id(self) -> Path:
        return self.path / "wandb_id"

    def write_config(self, text: str) -> None:
        """Writes config.yaml."""
        write_atomic(self.config, text.encode())

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json; its values must be plain JSON without NaN."""
        write_atomic(self.summary, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())

    def status(self) -> str | None:
        """How the last start of the run ended, by summary.json; None if that does not say."""
        try:
            return json.loads(self.summary.read_bytes()).get("status")
        except (OSError, ValueError):
            return None

    def cut_metrics(self, step: int) -> int:
        """Removes from metrics.jsonl the rows past `step` and what a killed run left of a line.

        The bytes of the rows that stay do not change. Called before the file is opened for new rows, which would
        else go to the file that this one replaces. Returns the number of lines removed.
        """
        if not self.metrics.exists():
            return 0
        lines = self.metrics.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if (row_step := _row_step(line)) is not None and row_step <= step]
        if len(kept) < len(lines):
            write_atomic(self.metrics, b"".join(kept))
        return len(lines) - len(kept)

    def forget_ending(self) -> None:
        """Removes summary.json, which says how an earlier start ended, before one that may be killed."""
        with disk_errors(self.summary):
            self.summary.unlink(missing_ok=True)

    def start_over(self) -> None:
        """Forgets what an earlier run left in this directory, before one that does not resume it."""
        self.cut_metrics(-1)
        self.forget_ending()
        for file in (self.wandb_id, *self.figures.glob("*.png")):
            with disk_errors(file):
                file.unlink(missing_ok=True)

    def free_space_check(self, bytes_needed: int) -> None:
        """Refuses a run whose checkpoints will not fit.

        Raises:
          RunError: the disk of the directory has less than `bytes_needed` free.
        """
        held = sum(file.stat().st_size for file in self.checkpoints.rglob("*") if file.is_file())
        free = shutil.disk_usage(self.path).free
        if held + free < bytes_needed:
            raise RunError(
                f"needs about {_gib(bytes_needed - held)} more for checkpoints, {_gib(free)} are free at {self.path}: "
                "free some, or lower checkpoint.keep"
            )


def _acquire(path: Path) -> int:
    """Locks `<path>/.lock` without waiting and returns its file descriptor, which is not inherited by programs."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 1024, 0).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise RunError(f"{path} is in use by {holder}; wait for it to end, or choose another name=…") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise
        warnings.warn(f"{path} cannot be locked on this file system: start no second run there", stacklevel=3)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on host {socket.gethostname()}\n".encode(), 0)
    return descriptor


def _row_step(line: bytes) -> int | None:
    """The step of a line of metrics.jsonl, or None if the line was not completely written."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
