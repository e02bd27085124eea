"""AlphaFold's transforms of an alignment (AlphaFold 2, Suppl. 1.2.5-1.2.9): pure functions of arrays and draws.

Dimensions: M all aligned rows, S cluster centres, E the other rows, L residues of the protein, N of the crop, W words
of 64 residues.
"""

from dataclasses import dataclass

import numpy as np

from evotrain.data.features.crop import Residues
from evotrain.data.protein import GAP, MASK, MSA_CLASSES, UNKNOWN

# What a hidden position shows instead; the rest, 70 %, is the mask token.
UNIFORM_FRACTION, PROFILE_FRACTION, SAME_FRACTION = 0.1, 0.1, 0.1
RESIDUE_TYPES = UNKNOWN
UNMASKED_CLASSES = MASK

# Bits that tell the classes of the alignment apart, and two codes that no residue has.
_CODE_BITS = 5
_NEVER_IN_CENTRE, _NEVER_IN_ROW = 30, 31
_WORD = 64

# So that what is counted stays in the processor's cache, and a deep alignment needs no more memory.
_ROWS_AT_A_TIME = 512


def delete_blocks(depth: int, starts: np.ndarray, fraction: float) -> np.ndarray:
    """MSA block deletion (Suppl. Alg. 1): the row numbers, ascending, that stay of an alignment of `depth` rows.

    From each of `starts`, int in [0, depth), `fraction` of the alignment's rows is deleted, or as many as there are up
    to its end. Blocks may overlap; the query always stays.
    """
    block = int(np.float32(depth) * np.float32(fraction))  # as AlphaFold rounds: 29 of 100 rows are 0.29
    keep = np.ones(depth, bool)
    for start in starts:
        keep[start : start + block] = False
    keep[0] = True
    return np.flatnonzero(keep)


def split_rows(
    rows: np.ndarray, order: np.ndarray, clusters: int, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of `rows`, int [M] with the query first, at most `clusters` cluster centres with the query first, and the rest.

    `order` is a permutation int [M - 1] of the rows below the query, counted from 0. With `most` the centres and the
    rest are together at most so many, the query and the first ones in this order: a uniform sample of the rows.
    """
    shuffled = np.concatenate([rows[:1], rows[1:][order]])[:most]
    return shuffled[:clusters], shuffled[clusters:]


@dataclass(frozen=True)
class IndexedMsa:
    """An alignment, and what every pass of the network looks up in it, computed once.

    Residues are hidden and rows assigned to clusters over the whole protein, as in AlphaFold; the rest is about what
    the crop shows.
    """

    residues: Residues  # the crop
    msa: np.ndarray  # int [M, L]
    profile: np.ndarray  # float32 [L, 22], frequencies of the residue types, unknown and gap in every column
    bits: np.ndarray  # uint64 [5, W, M], the residues as `pack_rows` writes them
    bins: np.ndarray  # int32 [M, N], column of the crop · 23 + residue: where the residue is counted
    deletions: np.ndarray  # int [M, N], residues deleted left of each column of the crop
    deleted: tuple[np.ndarray, np.ndarray]  # rows and columns, int [D] each, of the D positions with deletions


def index_msa(msa: np.ndarray, deletions: np.ndarray, residues: Residues) -> IndexedMsa:
    """Indexes an alignment int [M, L] with its deletions int [M, L] for the crop `residues`."""
    cropped = deletions[:, residues]
    return IndexedMsa(
        residues=residues,
        msa=msa,
        profile=msa_profile(msa),
        bits=pack_rows(msa),
        bins=_bins(msa[:, residues]),
        deletions=cropped,
        deleted=np.divmod(np.flatnonzero(cropped), cropped.shape[1]),
    )


def msa_profile(msa: np.ndarray) -> np.ndarray:
    """Frequencies of the residue types, unknown and gap in every column: float32 [L, 22] of msa int [M, L]."""
    depth, length = msa.shape
    counts = np.zeros(length * MSA_CLASSES, np.int64)
    for start in range(0, depth, _ROWS_AT_A_TIME):
        counts += np.bincount(_bins(msa[start : start + _ROWS_AT_A_TIME]).ravel(), minlength=len(counts))
    return (counts.reshape(length, MSA_CLASSES)[:, :UNMASKED_CLASSES] / depth).astype(np.float32)


def _bins(msa: np.ndarray) -> np.ndarray:
    """A number of its own for every column and residue: int32 [M, N] of msa int [M, N]."""
    return msa + np.arange(0, msa.shape[1] * MSA_CLASSES, MSA_CLASSES, dtype=np.int32)


def mask_msa(msa: np.ndarray, profile: np.ndarray, hidden: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """BERT masking: the MSA [S, L] with the `hidden` positions (bool [S, L]) replaced.

    A replacement is a uniformly random residue, one from the column's profile [L, 22], the residue itself, or the mask
    token; `draws` in [0, 1), [S, L], picks it from the cumulative distribution.
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


def assign_clusters(msa: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The centre that agrees with each row at most positions, the first of equals: int [E].

    `msa` [S, L] is the masked MSA, so that no assignment tells what is hidden; `rows`, uint64 [5, W, E], are written by
    `pack_rows`. Agreement on a gap or a mask says nothing and is not counted. Codes are compared as bits, 64 residues
    in a word: a tenth of the time of products of one-hot vectors.
    """
    centres = _bit_planes(np.where(msa < GAP, msa, _NEVER_IN_ROW))
    fewest = np.full(rows.shape[-1], np.iinfo(np.int32).max, np.int32)
    assignment = np.zeros(rows.shape[-1], np.int64)
    for centre in range(len(msa)):
        differs = rows[0] ^ centres[0, :, centre, None]
        for row_bit, centre_bit in zip(rows[1:], centres[1:], strict=True):
            differs |= row_bit ^ centre_bit[:, centre, None]
        count = np.bitwise_count(differs).sum(0, dtype=np.int32)
        closer = count < fewest
        fewest[closer], assignment[closer] = count[closer], centre
    return assignment


def pack_rows(msa: np.ndarray) -> np.ndarray:
    """The rows int [M, L] as `assign_clusters` compares them: uint64 [5, W, M]."""
    return _bit_planes(np.where(msa < GAP, msa, _NEVER_IN_CENTRE))


def _bit_planes(codes: np.ndarray) -> np.ndarray:
    """Bit b of every code below 32, int [R, L], packed along the residues: uint64 [5, W, R]."""
    padded = np.pad(codes.astype(np.uint8), ((0, 0), (0, -codes.shape[1] % _WORD)))
    planes = [np.packbits(padded >> bit & 1, axis=-1).view(np.uint64).T for bit in range(_CODE_BITS)]
    return np.stack(planes)


def summarize_clusters(
    msa: np.ndarray, centres: np.ndarray, others: np.ndarray, assignment: np.ndarray, indexed: IndexedMsa
) -> tuple[np.ndarray, np.ndarray]:
    """Profile float32 [S, N, 23] and mean deletions float32 [S, N] of every cluster, its centre included.

    `msa` [S, N] is the crop of the masked MSA, which shows the rows `centres`, int [S], of `indexed`;
    `assignment` [E] are the clusters of its rows `others`, int [E].
    """
    clusters, length = msa.shape
    sizes = np.bincount(assignment, minlength=clusters)
    members = np.split(others[np.argsort(assignment, kind="stable")], np.cumsum(sizes)[:-1])
    profile = np.empty((clusters, length * MSA_CLASSES), np.float32)
    for cluster, rows in enumerate(members):  # one after the other: their counts stay in the processor's cache
        profile[cluster] = np.bincount(indexed.bins[rows].ravel(), minlength=length * MSA_CLASSES)
    profile = profile.reshape(clusters, length, MSA_CLASSES)
    profile += np.eye(MSA_CLASSES, dtype=np.float32)[msa]

    cluster_of = np.full(len(indexed.msa), -1)
    cluster_of[centres], cluster_of[others] = np.arange(clusters), assignment
    row, column = indexed.deleted
    cluster = cluster_of[row]
    used = cluster >= 0
    deleted = np.bincount(
        cluster[used] * length + column[used], indexed.deletions[row[used], column[used]], minlength=clusters * length
    ).reshape(clusters, length)

    # AlphaFold's guard against empty clusters; with the centre counted it only has to stay for equal numbers.
    size = np.float32(1) + np.float32(1e-6) + sizes.astype(np.float32)
    profile /= size[:, None, None]
    return profile, deleted.astype(np.float32) / size[:, None]


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
