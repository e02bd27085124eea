"""Figures of one predicted structure: its contacts, its aligned errors, and its confidence along the chain.

N is the number of residues, without padding.
"""

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evotrain.contacts import CONTACT_CUTOFF
from evotrain.drawing import PROBABILITY, STYLE, colorbar, draw_map, halves, name_halves, rgb, save

CONTACT = "#262626"
ERROR = LinearSegmentedColormap.from_list("error", ["#0f4d2a", "#3a8059", "#a9d3b6", "#ffffff"])
MAX_ERROR = 31.75  # Å; the last bin of AlphaFold's aligned errors lies around it

# The classes of confidence of the AlphaFold database, from the lowest pLDDT of each, and their colours.
CONFIDENCE = {
    90: ("very high", "#0053d6"),
    70: ("confident", "#65cbf3"),
    50: ("low", "#ffdb13"),
    0: ("very low", "#ff7d45"),
}


def contact_map(path: Path, *, name: str, probability: np.ndarray, distance: np.ndarray) -> None:
    """Draws contacts as the distogram and as the structure predict them; they agree in a confident prediction.

    Args:
      path: the PNG file to write.
      name: the protein.
      probability: [N, N], of a contact by the distogram.
      distance: [N, N] in Å, between the Cβ (Cα of glycine) of the predicted structure.
    """
    n = len(probability)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.9, 4.2), layout="compressed")
        axes = figure.subplots()
        contacts = np.where((distance < CONTACT_CUTOFF)[..., None], rgb(CONTACT), 1.0)
        image = halves(PROBABILITY(np.clip(probability, 0, 1))[..., :3], contacts)
        draw_map(axes, image, np.ones(n), np.arange(1, n + 1))
        name_halves(axes, "distogram", "structure")
        axes.set_title(f"{name}   Cβ closer than {CONTACT_CUTOFF:.0f} Å")
        colorbar(figure, axes, PROBABILITY, Normalize(0, 1), "contact probability")
        save(figure, path)


def aligned_error_map(path: Path, *, name: str, error: np.ndarray, ptm: float) -> None:
    """Draws the expected error of every residue's position when the prediction is superposed on another residue.

    Args:
      path: the PNG file to write.
      name: the protein.
      error: [N, N] in Å; row i is superposed on residue i.
      ptm: the predicted TM-score.
    """
    n, norm = len(error), Normalize(0, MAX_ERROR)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.9, 4.2), layout="compressed")
        axes = figure.subplots()
        draw_map(axes, ERROR(norm(error))[..., :3], np.ones(n), np.arange(1, n + 1))
        axes.set(xlabel="scored residue", ylabel="aligned residue", title=f"{name}   pTM {ptm:.2f}")
        colorbar(figure, axes, ERROR, norm, "expected position error (Å)")
        save(figure, path)


def plddt_along_chain(path: Path, *, name: str, plddt: np.ndarray) -> None:
    """Draws pLDDT [N], from 0 to 100, of each residue in the colour of its class."""
    n = len(plddt)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        axes = figure.subplots()
        lowest = np.array(list(CONFIDENCE))
        classes = (plddt[:, None] < lowest).sum(1)
        edges = np.arange(n + 1) + 0.5
        for index, (least, (label, color)) in enumerate(CONFIDENCE.items()):
            values = np.where(classes == index, plddt, 0.0)
            axes.stairs(values, edges, fill=True, color=color, label=f"{label} (≥ {least})" if least else label)
            axes.axhline(least, color="0.85", linewidth=0.6, zorder=0)
        axes.stairs(plddt, edges, color="0.25", linewidth=0.7, baseline=None)
        axes.set(xlim=(0.5, n + 0.5), ylim=(0, 100), xlabel="residue", ylabel="pLDDT")
        axes.set_yticks([0, 50, 70, 90, 100])
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"{name}   mean pLDDT {plddt.mean():.1f}", loc="left")
        figure.legend(loc="outside upper right", ncols=len(CONFIDENCE))
        save(figure, path)
