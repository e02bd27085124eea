"""Residue contacts: how precise a ranking of residue pairs is."""

import numpy as np

CONTACT_CUTOFF = 8.0  # Å between Cβ (Cα of glycine)
LONG_RANGE = 24  # least separation in residue_index

KEYS = {"contact/precision_at_L": 1, "contact/precision_at_L2": 2, "contact/precision_at_L5": 5}
CHANCE = "contact/chance"


def contact_precision(
    scores: np.ndarray,
    positions: np.ndarray,
    mask: np.ndarray,
    residue_index: np.ndarray,
    *,
    min_separation: int = LONG_RANGE,
    cutoff: float = CONTACT_CUTOFF,
) -> dict[str, float]:
    """The share of true contacts among the L, L/2 and L/5 best-scored pairs, and among all pairs (`contact/chance`).

    `scores` [N, N] (the mean of both triangles ranks a pair), `positions` [N, 3] of the pseudo-β atoms in Å, `mask` [N]
    1 where they were observed, `residue_index` [N]. L is the number of observed residues. A pair counts if both of its
    residues are observed and their `residue_index` differs by at least `min_separation`; where there are fewer pairs
    than asked for, all of them are taken. Equal scores rank in the order of the residues. A protein with pairs but
    without contacts has precision 0; one without a pair that counts has NaN everywhere.
    """
    observed = mask > 0
    i, j = np.triu_indices(len(mask), 1)
    separation = np.abs(residue_index[i].astype(np.int64) - residue_index[j])
    keep = observed[i] & observed[j] & (separation >= min_separation)
    i, j = i[keep], j[keep]
    if len(i) == 0:
        return dict.fromkeys((*KEYS, CHANCE), float("nan"))
    true = np.sqrt(((positions[i] - positions[j]) ** 2).sum(-1)) < cutoff
    ranked = true[np.argsort(-(scores[i, j] + scores[j, i]), kind="stable")]
    length = int(observed.sum())
    result = {name: float(ranked[: max(length // part, 1)].mean()) for name, part in KEYS.items()}
    return result | {CHANCE: float(true.mean())}


def mean_precision(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each key of `contact_precision` over the proteins that have one; NaN where none has."""
    result = {}
    for name in (*KEYS, CHANCE):
        values = [row[name] for row in rows if not np.isnan(row[name])]
        result[name] = float(np.mean(values)) if values else float("nan")
    return result
