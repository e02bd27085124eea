"""What the figures share: one look, maps of residue pairs, and how a figure gets to the disk.

Every figure is drawn on its own canvas, without pyplot's global state, and replaced on disk atomically.
"""

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evotrain.run_dir import write_atomic

STYLE = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "0.35",
    "xtick.color": "0.35",
    "ytick.color": "0.35",
    "xtick.labelcolor": "0.15",
    "ytick.labelcolor": "0.15",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.4,
}
BLUE, ORANGE, GREEN, RED, GREY = "#1f5a94", "#c8641b", "#3a8059", "#a32f3c", "#808080"
UNOBSERVED = "0.90"
PROBABILITY = LinearSegmentedColormap.from_list("probability", ["#ffffff", "#9dc3e0", BLUE, "#0b2a4a"])


def draw_map(axes: Axes, image: np.ndarray, mask: np.ndarray, residue_index: np.ndarray) -> None:
    """Draws an image [N, N, 3] of residue pairs, with unobserved residues (`mask` [N] is 0) hatched."""
    image = np.where(pairs(mask)[..., None], image, rgb(UNOBSERVED))
    axes.imshow(image, interpolation="nearest", origin="upper")
    for first, last in runs(mask < 0.5):
        for span in (axes.axhspan, axes.axvspan):
            span(first - 0.5, last + 0.5, facecolor="none", edgecolor="0.6", hatch="////", linewidth=0)
    n = len(mask)
    axes.plot([-0.5, n - 0.5], [-0.5, n - 0.5], color="0.35", linewidth=0.6)
    numbers = MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(residue_index.min(), residue_index.max())
    ticks = np.flatnonzero(np.isin(residue_index, numbers))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [str(residue_index[tick]) for tick in ticks])
    axes.set(xlabel="residue", xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))


def name_halves(axes: Axes, above: str, below: str) -> None:
    """Says in the corners of a map what its halves show."""
    corner = {"transform": axes.transAxes, "fontsize": 8, "color": "0.25"}
    box = {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}}
    axes.text(0.98, 0.975, above, ha="right", va="top", **corner, **box)
    axes.text(0.02, 0.025, below, ha="left", va="bottom", **corner, **box)


def colorbar(
    figure: Figure, axes: Axes, colors: Colormap, norm: Normalize, label: str, extend: str = "neither"
) -> Colorbar:
    """A thin bar beside the axes."""
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, label=label, extend=extend, fraction=0.046, pad=0.03)
    bar.outline.set_linewidth(0.5)
    return bar


def halves(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """[N, N, 3] with one image above the diagonal, and another below and on it."""
    upper = np.triu(np.ones(above.shape[:2], dtype=bool), 1)
    return np.where(upper[..., None], above, below)


def pairs(mask: np.ndarray) -> np.ndarray:
    """bool [N, N]: which pairs have both of their residues observed."""
    observed = mask > 0.5
    return observed[:, None] & observed[None, :]


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]


def rgb(color: str) -> np.ndarray:
    """Red, green and blue [3] in [0, 1] of a named or hexadecimal colour."""
    return np.array(to_rgb(color))


def save(figure: Figure, path: Path) -> None:
    """Writes the PNG; the folder is made if need be."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
