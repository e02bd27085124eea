"""Where a run's rows go: metrics.jsonl, the console and W&B, from process 0 only."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from evotrain import wandb_log
from evotrain.config import Config
from evotrain.console import Console
from evotrain.run_dir import RunDir, disk_errors

STATUSES = ("finished", "preempted", "diverged", "failed")
PACKAGES = ("evotrain", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class MetricsLog:
    """Appends rows to metrics.jsonl, each with one write, so that a killed run tears at most its last line."""

    def __init__(self, path: Path):
        self._path = path
        with disk_errors(path):
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Appends a row; floats are written to the last bit, and NaN and infinities as null.

        Raises:
          RunError: the disk is full.
        """
        row = {"step": step, "split": split} | {name: _plain(metrics[name]) for name in sorted(metrics)}
        line = memoryview((json.dumps(row, allow_nan=False) + "\n").encode())
        with disk_errors(self._path):
            while line:
                line = line[os.write(self._file, line) :]

    def sync(self) -> None:
        """Puts the rows on the disk itself, so that a machine that fails cannot lose rows behind a checkpoint."""
        with disk_errors(self._path):
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, null as NaN; the torn last line of a run that was killed is left out."""
    rows = []
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            row = json.loads(line)
            rows.append({name: math.nan if value is None else value for name, value in row.items()})
    return rows


class RunLogger:
    """Sends a run's rows everywhere that they go. Processes other than 0 only warn; their other methods do nothing."""

    def __init__(self, run_dir: RunDir, config: Config, *, primary: bool):
        self._primary = primary
        self._warned: set[str] = set()
        if not primary:
            return
        self._run_dir = run_dir
        self._config = dataclasses.asdict(config)
        self._metrics = MetricsLog(run_dir.metrics)
        self._console = Console(total_steps=config.steps)
        self._wandb = wandb_log.start(config.logger, run_dir, config.name, self._config, warn=self._console.warn_once)
        self._failed = False

    def show_start(self, lines: Sequence[str], *, step: int = 0) -> None:
        """Prints the config and `lines` about the run, and starts the progress bar at `step`."""
        if self._primary:
            self._console.show_start(self._config, lines, step=step)

    def log(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Writes a row: `step` counts finished optimizer steps, `split` is "train" or "eval/<name>".

        Raises:
          RunError: the disk is full.
        """
        if not self._primary:
            return
        self._metrics.write(step, split, metrics)
        plain = {name: math.nan if (value := _plain(metrics[name])) is None else value for name in metrics}
        self._console.log(step, split, plain)
        if self._wandb is not None:
            self._wandb.log(step, split, plain)

    def event(self, text: str) -> None:
        """Prints a line about the run."""
        if self._primary:
            self._console.event(text)

    def warn_once(self, text: str) -> None:
        """Prints a warning, unless the same one was printed before; on processes other than 0 to standard error."""
        if self._primary:
            self._console.warn_once(text)
        elif text not in self._warned:
            self._warned.add(text)
            print(f"warning: {text}", file=sys.stderr)

    def figure(self, step: int, name: str, path: Path) -> None:
        """Sends a figure that was written to `path` to W&B."""
        if self._primary and self._wandb is not None:
            self._wandb.figure(step, name, path)

    def sync(self) -> None:
        """Puts the rows on the disk itself; called before a checkpoint is written."""
        if self._primary:
            self._metrics.sync()

    def summary(self, status: str, *, step: int, metrics: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        """Writes summary.json.

        Args:
          status: one of STATUSES.
          step: the last finished optimizer step.
          metrics: the final metrics.
          facts: what else is known of the run: device_kind, parameters, examples_seen.
        """
        assert status in STATUSES, status
        if not self._primary:
            return
        self._failed = status in ("diverged", "failed")
        final = {name: _plain(metrics[name]) for name in sorted(metrics)}
        head = {"status": status, "step": step, "metrics": final}
        self._run_dir.write_summary(head | dict(facts) | {"versions": versions()})

    def close(self) -> None:
        """Ends the progress bar, the W&B run and the metrics file."""
        if not self._primary:
            return
        self._primary = False
        self._console.close()
        self._metrics.close()
        if self._wandb is not None:
            self._wandb.finish(failed=self._failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a run's numbers; null for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _plain(value: Any) -> int | float | None:
    """A Python or numpy number as JSON has it."""
    if hasattr(value, "item"):
        value = value.item()
    return value if isinstance(value, int) or math.isfinite(value) else None
