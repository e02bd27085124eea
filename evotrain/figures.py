"""Figures of a run: contact maps beside the baseline's, expected distances, learning curves.

N is the number of residues, without padding; maps hold the prediction above the diagonal and the truth below it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from evotrain.contacts import CONTACT_CUTOFF, LONG_RANGE
from evotrain.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PROBABILITY,
    RED,
    STYLE,
    colorbar,
    draw_map,
    halves,
    name_halves,
    pairs,
    rgb,
    save,
)

SCORE = LinearSegmentedColormap.from_list("score", ["#ffffff", "#f0bf98", ORANGE, "#5c2806"])
DISTANCE = colormaps["viridis_r"]
TRUTH = "#262626"

MAX_DISTANCE = 22.0  # Å; the last bin of AlphaFold's distogram begins here


def contact_maps(
    path: Path,
    *,
    name: str,
    probability: np.ndarray,
    contacts: np.ndarray,
    baseline: np.ndarray,
    mask: np.ndarray,
    precision: float,
    baseline_precision: float,
    residue_index: np.ndarray,
) -> None:
    """Draws predicted and true contacts, and beside them those of direct coupling analysis.

    Args:
      path: the PNG file to write.
      name: the protein.
      probability: [N, N], predicted probability of a contact.
      contacts: bool [N, N], the true contacts.
      baseline: [N, N], scores of direct coupling analysis, of any scale.
      mask: [N], 1 where the residue was observed.
      precision, baseline_precision: of the L best long-range pairs; NaN if there are none.
      residue_index: int [N], numbers of the residues, for the axes and the sequence separation.
    """
    separation = np.abs(residue_index[:, None] - residue_index[None, :])
    score = _rank(baseline, (separation >= LONG_RANGE) & pairs(mask), int(mask.sum()))
    panels = [
        ("Evoformer", probability, PROBABILITY, "contact probability", precision),
        ("Direct coupling analysis", score, SCORE, "rank of the pair", baseline_precision),
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.0), layout="compressed")
        for axes, (title, values, colors, label, value) in zip(figure.subplots(1, 2), panels, strict=True):
            truth = np.where(contacts[..., None], rgb(TRUTH), 1.0)
            image = halves(colors(np.clip(values, 0, 1))[..., :3], truth)
            # Pairs near in sequence are easy and not counted: they are drawn, but pale.
            near = (separation < LONG_RANGE)[..., None]
            image = np.where(near, 0.55 * image + 0.45 * rgb("0.93"), image)
            draw_map(axes, image, mask, residue_index)
            name_halves(axes, "predicted", "true")
            axes.set_title(f"{title}   P@L {_precision(value)}")
            bar = colorbar(figure, axes, colors, Normalize(0, 1), label)
            if values is score:
                bar.set_ticks([1, 0.5, 0], labels=["1", "L", "2L"])
        length = int(mask.sum())
        counted = f"Cβ closer than {CONTACT_CUTOFF:.0f} Å, |i − j| ≥ {LONG_RANGE}"
        figure.suptitle(f"{name}   {length} residues, long-range contacts ({counted})")
        save(figure, path)


def distance_map(path: Path, *, name: str, expected: np.ndarray, true: np.ndarray, mask: np.ndarray) -> None:
    """Draws expected and true Cβ distances.

    Args:
      path: the PNG file to write.
      name: the protein.
      expected: [N, N] in Å, the mean of the predicted distogram.
      true: [N, N] in Å.
      mask: [N], 1 where the residue was observed.
    """
    norm = Normalize(2.0, MAX_DISTANCE)
    counted = pairs(mask) & (true < MAX_DISTANCE) & ~np.eye(len(mask), dtype=bool)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.9, 4.2), layout="compressed")
        axes = figure.subplots()
        image = halves(DISTANCE(norm(expected))[..., :3], DISTANCE(norm(true))[..., :3])
        draw_map(axes, image, mask, np.arange(1, len(mask) + 1))
        name_halves(axes, "predicted", "true")
        error = f"{np.abs(expected - true)[counted].mean():.1f} Å" if counted.any() else "–"
        axes.set_title(f"{name}   mean error {error} below {MAX_DISTANCE:.0f} Å")
        colorbar(figure, axes, DISTANCE, norm, "Cβ distance (Å)", extend="max").set_ticks([5, 10, 15, 20])
        save(figure, path)


def learning_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the losses of the rows of metrics.jsonl, and what the evaluations say of contacts and structures."""
    train = [row for row in rows if row["split"] == "train"]
    evaluations = [row for row in rows if row["split"] != "train"]
    reported = {name for row in evaluations for name in row}
    drawn = [_PANELS[name] for name in _PANELS if name in reported]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6 + 3.8 * len(drawn), 3.4), layout="constrained")
        panels = np.ravel(figure.subplots(1, 1 + len(drawn)))
        _draw_losses(panels[0], train, evaluations)
        for axes, draw in zip(panels[1:], drawn, strict=True):
            draw(axes, evaluations)
        last = max((row["step"] for row in rows), default=0) or 1
        for axes in panels:
            axes.set_xlim(-0.02 * last, 1.02 * last)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="0.92", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        save(figure, path)


def _draw_losses(axes: Axes, train: Sequence[Mapping], evaluations: Sequence[Mapping]) -> None:
    parts = {
        "loss": ("total", BLUE),
        "loss/masked_msa": ("masked MSA", ORANGE),
        "loss/distogram": ("distogram", GREEN),
        "loss/fape_backbone": ("backbone FAPE", RED),
    }
    for name, (label, color) in parts.items():
        steps, values = _series(train, name)
        smooth = _smooth(values)
        if len(smooth) > 1 and not np.array_equal(smooth, values, equal_nan=True):
            axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.35)
        if len(steps):
            marker = "." if len(steps) < 20 else None
            axes.plot(steps, smooth, color=color, linewidth=1.5, marker=marker, label=label)
        steps, values = _series(evaluations, name)
        axes.plot(steps, values, "o", color=color, markersize=4, markerfacecolor="white", markeredgewidth=1.2)
    if any("loss" in row for row in evaluations):
        held_out = {"color": "0.3", "markersize": 4, "markerfacecolor": "white", "markeredgewidth": 1.2}
        axes.plot([], [], "o", **held_out, label="held out")
    # The total is scaled by the square root of the crop: its parts would lie on the ground of a linear axis.
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("Loss", loc="left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _draw_precision(axes: Axes, evaluations: Sequence[Mapping]) -> None:
    lines = {
        "contact/precision_at_L": ("Evoformer", BLUE, "-"),
        "dca/precision_at_L": ("DCA", ORANGE, "-"),
        "permuted/precision_at_L": ("permuted columns", BLUE, "--"),
        "contact/chance": ("chance", GREY, ":"),
    }
    for name, (label, color, style) in lines.items():
        steps, values = _series(evaluations, name)
        if len(steps):
            own = name == "contact/precision_at_L"
            axes.plot(
                steps, values, style, color=color, linewidth=1.8 if own else 1.3, marker="o", markersize=3, label=label
            )
    axes.set_ylim(bottom=0)
    # Room for the legend above the curves, which end anywhere.
    axes.set_ylim(top=min(1.3 * axes.get_ylim()[1], 1.3))
    axes.set_title("Long-range contact precision at L, held out", loc="left")
    axes.legend(loc="upper left", ncols=2)


def _draw_structure(axes: Axes, evaluations: Sequence[Mapping]) -> None:
    for name, label, color in (("structure/lddt_ca", "lDDT-Cα", BLUE), ("structure/tm_score", "TM-score", ORANGE)):
        steps, values = _series(evaluations, name)
        axes.plot(steps, values, color=color, linewidth=1.5, marker="o", markersize=3, label=label)
    axes.set_ylim(0, 1)
    axes.set_title("Structures, held out", loc="left")
    axes.legend(loc="upper left", ncols=2)


# What is drawn beside the losses, by the metric that calls for it.
_PANELS = {"contact/precision_at_L": _draw_precision, "structure/lddt_ca": _draw_structure}


def _series(rows: Iterable[Mapping], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, int), np.array(values, float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A moving average, centred, over a twentieth of the curve; NaN where a value is."""
    width = len(values) // 20
    if width < 1:
        return values
    kernel = np.ones(2 * width + 1)
    finite = np.isfinite(values)
    weight = np.convolve(finite, kernel, mode="same")
    total = np.convolve(np.where(finite, values, 0), kernel, mode="same")
    return np.where(finite, total / np.maximum(weight, 1), np.nan)


def _rank(score: np.ndarray, counted: np.ndarray, length: int) -> np.ndarray:
    """Scores in [0, 1] by their rank among the counted pairs: 1 for the best, 1/2 for the L-th, 0 from the 2L-th on."""
    upper = np.triu(counted, 1)
    if not upper.any():
        upper = np.triu(np.ones_like(counted), 1)
    better = upper.sum() - np.searchsorted(np.sort(score[upper]), score, side="right")
    return np.clip(1 - better / max(2 * length, 1), 0, 1)


def _precision(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
