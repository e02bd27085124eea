"""What `command=prepare` says: its progress, and at the end what it read, what it skipped and why, and the sizes.

An entry is what is noted of one protein: a dict with `id`, `source_bytes`, and either `facts` and `templates` or
`failure`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from evotrain.data.sets.facts import Facts
from evotrain.drawing import BLUE, ORANGE, STYLE
from evotrain.prepare.readers import Reading

Entry = Mapping[str, Any]
QUANTILES = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
NAMED = 10  # proteins that are named on the console; report.json has them all
UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


class Progress:
    """A bar on a terminal, a line a file in a log."""

    def __init__(self, root: Path, out: Path, *, files: int, proteins: int):
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._opening = f"{root} → {out}: proteins to read {proteins}, files to write {files}"
        self._files, self._proteins = files, proteins
        self._done_files = self._done = self._failed = 0
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        self._print(self._opening)
        self._start = time.monotonic()
        if self._console.is_terminal:
            columns = BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()
            self._bar = RichProgress(TextColumn("proteins"), *columns, console=self._console, refresh_per_second=4)
            self._bar.add_task("proteins", total=self._proteins)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is not None:
            self._print(f"{self._done_files} of {self._files} files are written; the same command makes the others.")

    def counted(self, readings: Iterator[Reading]) -> Iterator[Reading]:
        """The same readings; each one that passes moves the bar."""
        for reading in readings:
            self._done += 1
            self._failed += bool(reading.failure)
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._done)
            yield reading

    def finished(self, path: Path) -> None:
        """A file is whole."""
        self._done_files += 1
        rate = self._done / (time.monotonic() - self._start)
        skipped = f", {self._failed} skipped" if self._failed else ""
        self._print(
            f"file {self._done_files}/{self._files}: {path.name}, {_size(path.stat().st_size)}; "
            f"{self._done}/{self._proteins} proteins{skipped}, {rate:.3g} a second"
        )

    def warn(self, text: str) -> None:
        """Something went wrong and was mended. May be called from any thread."""
        self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=not self._console.is_terminal)


def report(entries: Sequence[Entry], unusable: Mapping[str, str], prepared_bytes: int) -> dict[str, Any]:
    """The content of report.json, of plain numbers and texts."""
    facts = [Facts(**entry["facts"]) for entry in entries if "facts" in entry]
    cells = sum(fact.length * fact.rows for fact in facts)
    raw_bytes = sum(entry["source_bytes"] for entry in entries if "facts" in entry)
    return {
        "proteins": len(facts),
        "skipped": {entry["id"]: entry["failure"] for entry in entries if "failure" in entry},
        "left_out": dict(unusable),
        "with_templates": sum(entry["templates"] > 0 for entry in entries if "facts" in entry),
        "residues": sum(fact.length for fact in facts),
        "alignment_rows": sum(fact.rows for fact in facts),
        "residue_rows": cells,
        "raw_bytes": raw_bytes,
        "prepared_bytes": prepared_bytes,
        "raw_bytes_per_residue_row": round(raw_bytes / cells, 4) if cells else None,
        "prepared_bytes_per_residue_row": round(prepared_bytes / cells, 4) if cells else None,
        "length": _quantiles([fact.length for fact in facts]),
        "rows": _quantiles([fact.rows for fact in facts]),
    }


def show(out: Path, summary: Mapping[str, Any], fingerprint: str) -> None:
    """Prints the report."""
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table("prepared", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for label, value in _lines(summary).items():
        table.add_row(label, value)
    table.add_row("fingerprint", fingerprint[:16])
    console.print(table)
    for kind in ("skipped", "left_out"):
        reasons = summary[kind]
        for name, reason in list(reasons.items())[:NAMED]:
            console.print(f"{kind.replace('_', ' ')}: {name}: {reason}", soft_wrap=True)
        if len(reasons) > NAMED:
            console.print(f"… and {len(reasons) - NAMED} more, see {out / 'report.json'}", soft_wrap=True)
    console.print(f"train on it with data.root={out}", soft_wrap=True)


def draw(path: Path, facts: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draws how long the proteins are and how deep their alignments, as a PNG file."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="compressed")
        left, right = figure.subplots(1, 2)
        _histogram(left, np.array([fact["length"] for fact in facts]), xlabel="residues", ylabel="proteins")
        _histogram(right, np.array([fact["rows"] for fact in facts]), xlabel="rows of the alignment")
        figure.suptitle(f"{name}   {len(facts)} proteins")
        figure.savefig(path, format="png")


def _histogram(axes: Axes, values: np.ndarray, **labels: str) -> None:
    """Counts in bins of equal ratio, six an octave, and the median."""
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    if not values.size:
        return
    first, last = np.floor(np.log2(values.min())), np.ceil(np.log2(values.max() + 1))
    axes.hist(values, bins=2 ** np.arange(first, last + 0.01, 1 / 6), color=BLUE, edgecolor="white", linewidth=0.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.axvline(np.median(values), color=ORANGE, linewidth=1, linestyle="--")
    axes.set_title(f"{values.min()} to {values.max()}, median {np.median(values):.0f}")


def _lines(summary: Mapping[str, Any]) -> dict[str, str]:
    raw, prepared = summary["raw_bytes_per_residue_row"], summary["prepared_bytes_per_residue_row"]
    return {
        "proteins": f"{summary['proteins']}, {len(summary['skipped'])} skipped, {len(summary['left_out'])} left out",
        "residues": f"{summary['residues']}, {_spread(summary['length'])}",
        "alignment rows": f"{summary['alignment_rows']}, {_spread(summary['rows'])}",
        "with templates": str(summary["with_templates"]),
        "raw files": f"{_size(summary['raw_bytes'])}" + (f", {raw:.2f} bytes a residue and row" if raw else ""),
        "prepared files": f"{_size(summary['prepared_bytes'])}"
        + (f", {prepared:.2f} bytes a residue and row" if prepared else ""),
    }


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    return {name: float(np.quantile(values, share)) for name, share in QUANTILES.items()} if values else {}


def _spread(quantiles: Mapping[str, float]) -> str:
    if not quantiles:
        return "none"
    return f"{quantiles['min']:.0f} to {quantiles['max']:.0f} a protein, median {quantiles['median']:.0f}"


def _size(size: int) -> str:
    unit = next(unit for unit in UNITS if size >= UNITS[unit] or unit == "KiB")
    return f"{size / UNITS[unit]:.1f} {unit}"
