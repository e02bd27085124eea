"""Which residues of a protein an example shows: pure functions of sizes, coordinates and draws.

Dimensions: L residues of the protein, N of the crop.
"""

import numpy as np

# Residues as numpy indexes with them: a contiguous stretch, or ascending numbers int [N].
Residues = slice | np.ndarray


def contiguous_crop(length: int, crop: int, start: int) -> slice:
    """At most `crop` neighbouring residues (AlphaFold 2, Suppl. 1.2.8).

    `start` is one of the `crop_starts(length, crop)` first residues, all as likely. That deviates from AlphaFold, which
    draws so only in minibatches whose FAPE is clamped and prefers starts near the N-terminus in the others; here the
    loss is chosen without regard to the crop.
    """
    return slice(start, min(start + crop, length))


def crop_starts(length: int, crop: int) -> int:
    """Number of residues at which a contiguous crop can begin."""
    return max(length - crop, 0) + 1


def spatial_crop(ca_positions: np.ndarray, ca_mask: np.ndarray, center: int, crop: int) -> np.ndarray:
    """The `crop` residues next to residue `center` in space, ascending (AlphaFold-Multimer, Suppl. Alg. 2).

    `ca_positions` [L, 3] in Å, `ca_mask` [L], 1 where observed. Of equal distances the nearer in the sequence counts as
    nearer. Residues that were not observed are taken if there are too few others, the nearest in the sequence first.
    """
    distance = np.linalg.norm(ca_positions - ca_positions[center], axis=-1)
    distance = np.where(ca_mask > 0, distance, np.inf)
    separation = np.abs(np.arange(len(ca_mask)) - center)
    return np.sort(np.lexsort((separation, distance))[:crop])
