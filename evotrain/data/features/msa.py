"""AlphaFold's transforms of an alignment (AlphaFold 2, Suppl. 1.2.6-1.2.9): pure functions of arrays and draws.

Dimensions: M all aligned rows, S cluster centres, E the other rows, N residues of the crop, W words of 64 residues.
"""

import numpy as np

from evotrain.data.protein import GAP, MASK, MSA_CLASSES, UNKNOWN

# What a hidden position shows instead; the rest, 70 %, is the mask token.
UNIFORM_FRACTION, PROFILE_FRACTION, SAME_FRACTION = 0.1, 0.1, 0.1
RESIDUE_TYPES = UNKNOWN
UNMASKED_CLASSES = MASK

# Bits that tell the classes of the alignment apart, and two codes that no residue has.
_CODE_BITS = 5
_NEVER_IN_CENTRE, _NEVER_IN_ROW = 30, 31
_WORD = 64


def split_rows(order: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the cluster centres, the query first, and of the rest.

    `order` is a permutation int [M - 1] of the rows below the query, counted from 0.
    """
    rows = np.concatenate([[0], order + 1])
    return rows[:clusters], rows[clusters:]


def msa_profile(msa: np.ndarray) -> np.ndarray:
    """Frequencies of the residue types, unknown and gap in every column: float32 [N, 22] of msa int [M, N]."""
    depth, length = msa.shape
    bins = np.arange(length) * UNMASKED_CLASSES + msa
    counts = np.bincount(bins.ravel(), minlength=length * UNMASKED_CLASSES)
    return (counts.reshape(length, UNMASKED_CLASSES) / depth).astype(np.float32)


def mask_msa(msa: np.ndarray, profile: np.ndarray, hidden: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """BERT masking: the MSA [S, N] with the `hidden` positions (bool [S, N]) replaced.

    A replacement is a uniformly random residue, one from the column's profile [N, 22], the residue itself, or the mask
    token; `draws` in [0, 1), [S, N], picks it from the cumulative distribution.
    """
    columns = np.nonzero(hidden)[1]
    odds = np.empty((len(columns), MSA_CLASSES))
    odds[:, :UNMASKED_CLASSES] = PROFILE_FRACTION * profile[columns]
    odds[:, :RESIDUE_TYPES] += UNIFORM_FRACTION / RESIDUE_TYPES
    odds[np.arange(len(columns)), msa[hidden]] += SAME_FRACTION
    odds[:, MASK] = 1 - UNIFORM_FRACTION - PROFILE_FRACTION - SAME_FRACTION
    cumulative = np.cumsum(odds, axis=1)
    picks = (cumulative[:, :-1] <= draws[hidden][:, None] * cumulative[:, -1:]).sum(axis=1)
    shown = msa.copy()
    shown[hidden] = picks
    return shown


def assign_clusters(msa: np.ndarray, extra: np.ndarray) -> np.ndarray:
    """The centre that agrees with each extra row at most positions, the first of equals: int [E].

    `msa` [S, N] is the masked MSA, so that no assignment tells what is hidden; `extra` is [E, N]. Agreement on a gap or
    a mask says nothing and is not counted. Codes are compared as bits, 64 residues in a word: a tenth of the time of
    products of one-hot vectors.
    """
    centres = _bit_planes(np.where(msa < GAP, msa, _NEVER_IN_ROW))
    rows = _bit_planes(np.where(extra < GAP, extra, _NEVER_IN_CENTRE))
    fewest = np.full(len(extra), np.iinfo(np.int32).max, np.int32)
    assignment = np.zeros(len(extra), np.int64)
    for centre in range(len(msa)):
        differs = rows[0] ^ centres[0, :, centre, None]
        for row_bit, centre_bit in zip(rows[1:], centres[1:], strict=True):
            differs |= row_bit ^ centre_bit[:, centre, None]
        count = np.bitwise_count(differs).sum(0, dtype=np.int32)
        closer = count < fewest
        fewest[closer], assignment[closer] = count[closer], centre
    return assignment


def _bit_planes(codes: np.ndarray) -> np.ndarray:
    """Bit b of every code below 32, int [R, N], packed along the residues: uint64 [5, W, R]."""
    bits = codes.astype(np.uint8) >> np.arange(_CODE_BITS, dtype=np.uint8)[:, None, None] & 1
    bits = np.pad(bits, ((0, 0), (0, 0), (0, -codes.shape[1] % _WORD)))
    return np.ascontiguousarray(np.packbits(bits, axis=-1).view(np.uint64).swapaxes(1, 2))


def summarize_clusters(
    msa: np.ndarray, deletions: np.ndarray, extra: np.ndarray, extra_deletions: np.ndarray, assignment: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Profile float32 [S, N, 23] and mean deletions float32 [S, N] of every cluster, its centre included.

    `msa` and `deletions` [S, N] are the centres', `extra` and `extra_deletions` [E, N] the other rows', `assignment`
    [E] the clusters of the latter.
    """
    clusters, length = msa.shape
    cluster = np.concatenate([np.arange(clusters), assignment])
    position = cluster[:, None] * length + np.arange(length)
    members = np.concatenate([msa, extra])
    counts = np.bincount((position * MSA_CLASSES + members).ravel(), minlength=clusters * length * MSA_CLASSES).reshape(
        clusters, length, MSA_CLASSES
    )
    deleted = np.bincount(
        position.ravel(), np.concatenate([deletions, extra_deletions]).ravel(), minlength=clusters * length
    ).reshape(clusters, length)
    # AlphaFold's guard against empty clusters; with the centre counted it only has to stay for equal numbers.
    size = np.float32(1) + np.float32(1e-6) + np.bincount(assignment, minlength=clusters).astype(np.float32)
    return counts.astype(np.float32) / size[:, None, None], deleted.astype(np.float32) / size[:, None]


def msa_feat(
    msa: np.ndarray, deletions: np.ndarray, cluster_profile: np.ndarray, deletion_mean: np.ndarray
) -> np.ndarray:
    """MSA features float32 [S, N, 49] of the masked MSA int [S, N] and its clusters.

    The one-hot residue (23), whether any residue is deleted left of it, how many (scaled to [0, 1)), the cluster's
    profile (23) and mean deletions (scaled likewise).
    """
    features = np.empty((*msa.shape, 2 * MSA_CLASSES + 3), np.float32)
    features[..., :MSA_CLASSES] = np.eye(MSA_CLASSES, dtype=np.float32)[msa]
    features[..., MSA_CLASSES] = has_deletion(deletions)
    features[..., MSA_CLASSES + 1] = scale_deletions(deletions)
    features[..., MSA_CLASSES + 2 : -1] = cluster_profile
    features[..., -1] = scale_deletions(deletion_mean)
    return features


def has_deletion(count: np.ndarray) -> np.ndarray:
    """Whether anything is deleted, float32 of the counts' shape."""
    return np.minimum(count, 1).astype(np.float32)


def scale_deletions(count: np.ndarray) -> np.ndarray:
    """Counts of deleted residues as float32 in [0, 1)."""
    return np.arctan(count.astype(np.float32) / 3) * np.float32(2 / np.pi)
