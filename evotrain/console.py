"""What a person sees of a run: the config, a progress bar on a terminal or one line a row in a log, and evaluations.

Only process 0 has a console. Rows fit into 80 columns of a terminal, or 100 of a log.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from evotrain.limits import LOSS_PARTS

LOG_WIDTH = 100
TERMINAL_WIDTH = 120  # a row that is wider than this is hard to read, however wide the terminal

# Labels of the metrics that evaluations share; others are shown under their own names.
LOSSES = {"loss": "loss"} | {f"loss/{part}": part for part in LOSS_PARTS}
STRUCTURES = {
    "structure/lddt_ca": "lDDT-Cα",
    "structure/tm_score": "TM-score",
    "structure/gdt_ts": "GDT-TS",
    "structure/rmsd": "RMSD/Å",
    "structure/plddt": "pLDDT",
}
ACCURACIES = {"masked_msa/accuracy": "masked-MSA accuracy", "masked_msa/perplexity": "perplexity"}
CUTOFFS = {"precision_at_L": "P@L", "precision_at_L2": "P@L/2", "precision_at_L5": "P@L/5"}
PREDICTORS = {"contact": "model", "dca": "DCA", "permuted": "permuted"}
CHANCE = "contact/chance"
TRAIN = {name: LOSSES[name] for name in ("loss", "loss/masked_msa", "loss/distogram")} | {"grad_norm": "grad_norm"}
SWITCHES = ("blocks", "layers")  # keys whose 0 leaves a part of the model out
# Counts of what should not happen; a row shows those that are not zero.
ALARMS = {"skipped", "data/substituted", "data/skipped"}
# Of these a training row shows the throughput only; metrics.jsonl has them all.
QUIET = {"lr"}


class Console:
    """Prints a run's rows to `stream` (default: standard output).

    On a terminal a progress bar takes the place of training rows; evaluations, events and warnings stay above it.
    """

    def __init__(self, *, total_steps: int, stream: TextIO | None = None):
        self._rich = RichConsole(file=stream, highlight=False, markup=False, emoji=False)
        if self._rich.is_terminal:
            self._width = min(self._rich.width, TERMINAL_WIDTH)
        else:
            self._width = self._rich.width = LOG_WIDTH
        self._total = total_steps
        self._progress: Progress | None = None
        self._warned: set[str] = set()

    def show_start(self, config: Mapping[str, Any], lines: Sequence[str], *, step: int = 0) -> None:
        """Prints the config as a tree and `lines` about the run; a progress bar if steps are left after `step`."""
        self._rich.print(config_tree(config, width=self._width))
        for line in lines:
            self.event(line)
        if self._rich.is_terminal and step < self._total:
            self._progress = Progress(
                TextColumn("step"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._rich,
                refresh_per_second=4,
            )
            self._progress.add_task("step", total=self._total, completed=step, state="compiling")
            self._progress.start()

    def log(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Shows a row: `split` is "train", or "eval/<name>" for an evaluation."""
        if split != "train":
            self._print(evaluation_row(step, split, metrics, width=self._width))
        elif self._progress is None:
            self._print(train_row(step, self._total, metrics, width=self._width))
        else:
            state = _labelled(metrics, {"loss": "loss"}) + _throughput(metrics)
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=step, state="  ".join(piece.plain for piece in state))

    def show_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Prints an evaluation as a table of contact precisions with the other metrics below it."""
        if any(f"{predictor}/{cutoff}" in metrics for predictor in PREDICTORS for cutoff in CUTOFFS):
            self._rich.print(contact_table(metrics))
        self._print(_wrap(_other_pieces(metrics), indent=1, width=self._width, first=Text(" ")))

    def event(self, text: str) -> None:
        """Prints a line about the run."""
        self._print(Text(text))

    def warn_once(self, text: str) -> None:
        """Prints a warning, unless the same one was printed before."""
        if text not in self._warned:
            self._warned.add(text)
            self._print(Text.assemble(("warning: ", "yellow"), text))

    def close(self) -> None:
        """Ends the progress bar and leaves it as it stands."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, text: Text) -> None:
        # Rich would break a log's long lines at its width; a log is better searched with whole ones.
        self._rich.print(text, soft_wrap=not self._rich.is_terminal)


def train_row(step: int, total: int, metrics: Mapping[str, float], *, width: int) -> Text:
    """One line for a training step; metrics without a label of their own follow as long as they fit."""
    pieces = [Text(f"step {step:>{len(str(total)) + 2}}/{total}")]
    pieces += _labelled(metrics, TRAIN) + _throughput(metrics) + _data_wait(metrics)
    for name in sorted(_unlabelled(metrics, TRAIN.keys() | QUIET)):
        piece = _piece(name, metrics[name])
        if sum(len(p) + 2 for p in pieces) + len(piece) <= width:
            pieces.append(piece)
    return Text("  ").join(pieces)


def evaluation_row(step: int, split: str, metrics: Mapping[str, float], *, width: int) -> Text:
    """An evaluation: contact precision beside its baselines first, then losses and whatever else was measured."""
    row = Text.assemble((f"{split.replace('/', ' ')} step {step}: ", "bold"))
    indent = 4
    if contacts := _contact_pieces(metrics):
        row = _wrap(contacts, indent=indent, width=width, first=row)
        row.append("\n" + " " * indent)
    return _wrap(_other_pieces(metrics), indent=indent, width=width, first=row)


def contact_table(metrics: Mapping[str, float]) -> Table:
    """Long-range contact precision, a predictor a row and a cut-off a column."""
    table = Table("long-range contacts", box=box.SIMPLE_HEAD, pad_edge=False)
    cutoffs = [cutoff for cutoff in CUTOFFS if any(f"{predictor}/{cutoff}" in metrics for predictor in PREDICTORS)]
    for cutoff in cutoffs:
        table.add_column(CUTOFFS[cutoff], justify="right")
    for predictor, label in PREDICTORS.items():
        values = [metrics.get(f"{predictor}/{cutoff}") for cutoff in cutoffs]
        if any(value is not None for value in values):
            table.add_row(label, *("" if value is None else format_number(value) for value in values))
    if CHANCE in metrics:
        table.add_row("chance", *(format_number(metrics[CHANCE]) for _ in cutoffs))
    return table


def config_tree(config: Mapping[str, Any], *, width: int) -> Tree:
    """The config, a branch a group; the keys of a group share lines, so that the whole fits on a screen."""
    tree = Tree(_group_label("config", config, width))
    _add_groups(tree, config, width - 4)
    return tree


def format_number(value: float) -> str:
    """Four digits or so of a metric, in the shortest form that is easy to compare down a column."""
    if isinstance(value, int):
        return str(value)
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.1e}"


def _add_groups(tree: Tree, config: Mapping[str, Any], width: int) -> None:
    for name, value in config.items():
        if isinstance(value, Mapping):
            _add_groups(tree.add(_group_label(name, value, width)), value, width - 4)


def _group_label(name: str, group: Mapping[str, Any], width: int) -> Text:
    pairs = {key: value for key, value in group.items() if not isinstance(value, Mapping)}
    # Of a part that the model lacks, its absence is all there is to say.
    pairs = next(({switch: 0} for switch in SWITCHES if pairs.get(switch) == 0), pairs)
    pieces = [Text.assemble((f"{key} ", "dim"), _format_value(value)) for key, value in pairs.items()]
    indent = 12
    return _wrap(pieces, indent=indent, width=width, first=Text.assemble((f"{name:<{indent - 1}} ", "bold")))


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _wrap(pieces: Sequence[Text], *, indent: int, width: int, first: Text) -> Text:
    """Appends the pieces to `first`, two spaces apart, and breaks lines between pieces only."""
    text = first.copy()
    column = len(text.plain.rpartition("\n")[2])
    gap = 0
    for piece in pieces:
        if column + gap + len(piece) > width:
            text.rstrip()
            text.append("\n" + " " * indent)
            column, gap = indent, 0
        text.append(" " * gap).append_text(piece)
        column, gap = column + gap + len(piece), 2
    return text


def _contact_pieces(metrics: Mapping[str, float]) -> list[Text]:
    pieces = []
    for cutoff, label in CUTOFFS.items():
        if f"contact/{cutoff}" in metrics:
            first = cutoff == "precision_at_L"
            beside = {f"dca/{cutoff}": "DCA", f"permuted/{cutoff}": "permuted"} | ({CHANCE: "chance"} if first else {})
            piece = _piece(f"contact {label}" if first else label, metrics[f"contact/{cutoff}"])
            if others := _labelled(metrics, beside):
                piece.append(" (").append_text(Text(", ").join(others)).append(")")
            pieces.append(piece)
    return pieces


def _other_pieces(metrics: Mapping[str, float]) -> list[Text]:
    contacts = {CHANCE} | {f"{predictor}/{cutoff}" for predictor in PREDICTORS for cutoff in CUTOFFS}
    groups = (STRUCTURES, LOSSES, ACCURACIES)
    pieces = [piece for labels in groups for piece in _labelled(metrics, labels)]
    unlabelled = _unlabelled(metrics, contacts.union(*groups))
    pieces += [_piece(name, metrics[name]) for name in sorted(unlabelled)]
    if "time/eval" in metrics:
        pieces.append(Text(f"took {metrics['time/eval']:.1f} s"))
    return pieces


def _throughput(metrics: Mapping[str, float]) -> list[Text]:
    rate = metrics.get("time/examples_per_second")
    return [] if rate is None else [Text(f"{rate:.3g} ex/s" if rate < 1000 else f"{rate:.0f} ex/s")]


def _data_wait(metrics: Mapping[str, float]) -> list[Text]:
    """The share of the step that was spent waiting for data, where it is worth a look."""
    wait, step = metrics.get("time/data_wait", 0.0), metrics.get("time/step", math.inf)
    return [Text(f"data wait {100 * wait / step:.0f} %", style="yellow")] if wait > 0.1 * step else []


def _labelled(metrics: Mapping[str, float], labels: Mapping[str, str]) -> list[Text]:
    return [_piece(label, metrics[name]) for name, label in labels.items() if name in metrics]


def _unlabelled(metrics: Mapping[str, float], labelled: Iterable[str]) -> set[str]:
    shown = {name for name, value in metrics.items() if not name.startswith("time/") and (value or name not in ALARMS)}
    return shown - set(labelled)


def _piece(label: str, value: float) -> Text:
    return Text.assemble((f"{label} ", "dim"), format_number(value))
