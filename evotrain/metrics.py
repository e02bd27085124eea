"""How well a predicted chain agrees with the observed one, by its Cα atoms.

Residues are paired by their place in the sequence. N is the number of residues that both have, F the number of
superpositions that are tried at once. Coordinates are in Å; all computation is in float64.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from evotrain.data.protein import CA_ATOM
from evotrain.run_dir import write_atomic

KEYS = ("structure/lddt_ca", "structure/gdt_ts", "structure/tm_score", "structure/rmsd")

LDDT_RADIUS = 15.0  # Å; pairs that are closer in the observed structure count
LDDT_TOLERANCES = (0.5, 1.0, 2.0, 4.0)  # Å
GDT_CUTOFFS = (1.0, 2.0, 4.0, 8.0)  # Å
LEAST_RESIDUES = 3  # that fix a superposition

# The superposition search of TM-score (Zhang & Skolnick 2004): it starts from fragments of a chain, halved in length
# from the whole chain down to four residues, and superposes anew on the residues that have come close.
SHORTEST_FRAGMENT = 4
FRAGMENT_LENGTHS = 6
REFINEMENTS = 20
SEARCH_RANGE = (4.5, 8.0)  # Å; bounds of the distance at which residues count as close
FRAGMENTS_AT_ONCE = 2**20  # elements of [F, N]; bounds the memory of the search


def structure_metrics(
    predicted: np.ndarray, predicted_mask: np.ndarray, true: np.ndarray, true_mask: np.ndarray
) -> dict[str, float]:
    """lDDT-Cα, GDT-TS and TM-score in [0, 1], and the Cα RMSD in Å, of a chain in the 37-atom representation.

    `predicted` and `true` are [N, 37, 3] in Å over the same residues, the masks [N, 37] 1 where an atom is there. All
    count the residues whose Cα was observed; one that was observed but not predicted lowers lDDT, GDT-TS and TM-score
    and is left out of the RMSD. All are NaN if fewer than three residues have both.
    """
    observed = true_mask[:, CA_ATOM] > 0
    both = observed & (predicted_mask[:, CA_ATOM] > 0)
    if both.sum() < LEAST_RESIDUES:
        return dict.fromkeys(KEYS, float("nan"))
    model = predicted[both, CA_ATOM].astype(np.float64)
    target = true[both, CA_ATOM].astype(np.float64)
    length = int(observed.sum())
    gdt, tm = superposition_scores(model, target, length)
    every = np.where(both[:, None], predicted[:, CA_ATOM], np.nan)[observed]
    values = (lddt(every, true[observed, CA_ATOM]), gdt, tm, rmsd(model, target))
    return dict(zip(KEYS, values, strict=True))


def lddt(model: np.ndarray, target: np.ndarray) -> float:
    """The local distance difference test of points [N, 3] in Å, in [0, 1] (Mariani et al. 2013).

    The share of distances below 15 Å in `target` that `model` keeps within 0.5, 1, 2 and 4 Å, the mean of the four. A
    point that is NaN in `model` keeps none. NaN if no two points are near.
    """
    expected, found = pair_distances(target), pair_distances(model)
    near = (expected < LDDT_RADIUS) & ~np.eye(len(target), dtype=bool)
    if not near.any():
        return float("nan")
    error = np.abs(expected - found)[near]
    return float(np.mean([error < tolerance for tolerance in LDDT_TOLERANCES]))


def rmsd(model: np.ndarray, target: np.ndarray) -> float:
    """The root mean square deviation of points [N, 3] in Å after the best superposition (Kabsch 1976)."""
    distance = _superposed_distance(model, target, np.ones((1, len(model)), bool))[0]
    return float(np.sqrt((distance**2).mean()))


def superposition_scores(model: np.ndarray, target: np.ndarray, length: int) -> tuple[float, float]:
    """GDT-TS and TM-score of paired Cα [N, 3] in Å, each with the best superposition that TM-score's search finds.

    `length` is the number of observed residues, by which both are normalised (3 ≤ N ≤ `length`).
    """
    scale = tm_scale(length)
    tm, within = 0.0, np.zeros(len(GDT_CUTOFFS))
    for distance in _search(model, target, float(np.clip(scale, *SEARCH_RANGE))):
        tm = max(tm, float((1 / (1 + (distance / scale) ** 2)).sum(-1).max()))
        within = np.maximum(within, [(distance <= cutoff).sum(-1).max() for cutoff in GDT_CUTOFFS])
    return float(within.mean()) / length, tm / length


def tm_scale(length: int) -> float:
    """TM-score's d₀ in Å, the distance of a residue that counts half in a chain of `length` residues."""
    return max(1.24 * float(np.cbrt(length - 15)) - 1.8, 0.5)


def pair_distances(points: np.ndarray) -> np.ndarray:
    """Distances [N, N] in Å between points [N, 3]."""
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))


def write_per_protein(path: Path, rows: Sequence[Mapping[str, str | float]]) -> None:
    """Writes a CSV table with a line a protein: a column for each key of the rows, empty where a value is NaN."""
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: _cell(value) for name, value in row.items()})
    write_atomic(path, text.getvalue().encode())


def _cell(value: str | float) -> str | int:
    if isinstance(value, str | int):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def _search(model: np.ndarray, target: np.ndarray, close: float) -> Iterator[np.ndarray]:
    """Distances [F, N] in Å under the superpositions of TM-score's search.

    A superposition on a fragment gathers the residues closer than `close` − 1 Å, which are superposed in turn and
    gather those closer than `close` + 1 Å, and so on until the same ones come back.
    """
    for chosen in _fragments(len(model)):
        cutoff = close - 1
        for _ in range(REFINEMENTS + 1):
            distance = _superposed_distance(model, target, chosen)
            yield distance
            gathered = _within(distance, cutoff)
            gathered = gathered[(gathered != chosen).any(-1)]
            if not len(gathered):
                break
            chosen, cutoff = np.unique(gathered, axis=0), close + 1


def _fragments(length: int) -> Iterator[np.ndarray]:
    """Every fragment of each length as masks [F, N], in batches of bounded size."""
    shortest = min(SHORTEST_FRAGMENT, length)
    halves = [length // 2**k for k in range(FRAGMENT_LENGTHS - 1)]
    places = np.arange(length)
    for size in [*(half for half in halves if half > shortest), shortest]:
        starts = np.arange(length - size + 1)
        for batch in np.array_split(starts, -(-len(starts) * length // FRAGMENTS_AT_ONCE)):
            yield (places >= batch[:, None]) & (places < batch[:, None] + size)


def _within(distance: np.ndarray, cutoff: float) -> np.ndarray:
    """Which residues [F, N] are closer than the cutoff, widened in steps of 0.5 Å until there are three."""
    third = np.partition(distance, LEAST_RESIDUES - 1, axis=-1)[:, LEAST_RESIDUES - 1]
    steps = np.maximum(np.floor((third - cutoff) / 0.5) + 1, 0)
    return distance < (cutoff + 0.5 * steps)[:, None]


def _superposed_distance(model: np.ndarray, target: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Distances [F, N] in Å of all pairs, once those that a row of `chosen` (bool [F, N]) holds are superposed best."""
    model, target = model - model.mean(0), target - target.mean(0)  # products of small numbers round less
    weight = chosen / chosen.sum(-1, keepdims=True)
    model_centre, target_centre = weight @ model, weight @ target
    products = (model[:, :, None] * target[:, None, :]).reshape(len(model), 9)
    covariance = (weight @ products).reshape(-1, 3, 3) - model_centre[:, :, None] * target_centre[:, None, :]
    u, _, v = np.linalg.svd(covariance)
    u[:, :, 2] *= np.linalg.det(u @ v)[:, None]  # a rotation, no reflection
    moved = (model - model_centre[:, None]) @ (u @ v) + target_centre[:, None]
    return np.sqrt(((moved - target) ** 2).sum(-1))
