"""AlphaFold's MSA features of one training example (AlphaFold 2, Suppl. 1.2.7-1.2.9).

The transforms are pure functions of arrays and of their random draws; `example` makes the draws. Dimensions: M all
aligned rows, S cluster centres, E the other rows, N residues of the crop. Crop and rows are chosen first, so that the
cost of an example does not depend on the length of the protein.
"""

import numpy as np

from evotrain.data.protein import GAP, MASK, MSA_CLASSES, UNKNOWN, Protein, pseudo_beta

# What a hidden position shows instead; the rest, 70 %, is the mask token.
UNIFORM_FRACTION, PROFILE_FRACTION, SAME_FRACTION = 0.1, 0.1, 0.1
RESIDUE_TYPES = UNKNOWN
UNMASKED_CLASSES = MASK

# Rows of this table are one-hot for the 21 residue types (unknown among them), zero for gap and mask: agreement on
# those says nothing.
_AGREEMENT = np.eye(MSA_CLASSES, GAP, dtype=np.float32)


def example(
    protein: Protein,
    rng: np.random.Generator,
    *,
    crop: int,
    msa_clusters: int,
    mask_fraction: float,
) -> dict[str, np.ndarray]:
    """The features and labels of one example, zero-padded to N = `crop` residues and S = `msa_clusters` rows.

    The crop is contiguous and begins at a random residue. Every position of the sampled rows is
    hidden with probability `mask_fraction`. Coordinates are in Å.

    Returns aatype int32 [N], residue_index int32 [N], seq_mask [N], target_feat [N, 22], msa_feat [S, N, 49],
    msa_mask [S, N], true_msa int32 [S, N], bert_mask [S, N], pseudo_beta [N, 3], pseudo_beta_mask [N]; float32 where
    not said otherwise.
    """
    length = protein.msa.shape[1]
    start = int(rng.integers(max(length - crop, 0) + 1))
    window = slice(start, start + crop)
    msa, deletions = protein.msa[:, window], protein.deletions[:, window]
    order = rng.permutation(msa.shape[0] - 1)
    rows, others = split_rows(order, msa_clusters)

    true_msa = msa[rows]
    hidden = rng.random(true_msa.shape) < mask_fraction
    shown = mask_msa(true_msa, msa_profile(msa), hidden, rng.random(true_msa.shape))
    assignment = assign_clusters(shown, msa[others])
    profile, deletion_mean = summarize_clusters(shown, deletions[rows], msa[others], deletions[others], assignment)

    aatype = msa[0].astype(np.int32)
    beta, beta_mask = pseudo_beta(aatype, protein.atom_positions[window], protein.atom_mask[window])
    features = {
        "aatype": aatype,
        "residue_index": protein.residue_index[window].astype(np.int32),
        "seq_mask": np.ones(len(aatype), np.float32),
        "target_feat": target_feat(aatype),
        "msa_feat": msa_feat(shown, deletions[rows], profile, deletion_mean),
        "msa_mask": np.ones(true_msa.shape, np.float32),
        "true_msa": true_msa.astype(np.int32),
        "bert_mask": hidden.astype(np.float32),
        "pseudo_beta": beta,
        "pseudo_beta_mask": beta_mask,
    }
    return {name: _pad(name, value, crop, msa_clusters) for name, value in features.items()}


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

    `msa` [S, N] is the masked MSA, so that no assignment tells what is hidden; `extra` is [E, N].
    """
    width = msa.shape[1] * _AGREEMENT.shape[1]
    centres = _AGREEMENT[msa].reshape(-1, width)
    rows = _AGREEMENT[extra].reshape(-1, width)
    # Sums of ones are exact in float32: the order of the sum, hence the number of threads, cannot change a choice.
    return np.argmax(rows @ centres.T, axis=1)


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
    size = np.float32(1e-6) + np.bincount(cluster, minlength=clusters).astype(np.float32)
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
    features[..., MSA_CLASSES] = np.minimum(deletions, 1)
    features[..., MSA_CLASSES + 1] = _scale_deletions(deletions)
    features[..., MSA_CLASSES + 2 : -1] = cluster_profile
    features[..., -1] = _scale_deletions(deletion_mean)
    return features


def target_feat(aatype: np.ndarray) -> np.ndarray:
    """Query features float32 [N, 22]: the flag of a break between segments, never set for a chain; the residue type."""
    return np.eye(GAP + 1, dtype=np.float32)[aatype + 1]


def _scale_deletions(count: np.ndarray) -> np.ndarray:
    return np.arctan(count.astype(np.float32) / 3) * np.float32(2 / np.pi)


def _pad(name: str, value: np.ndarray, residues: int, rows: int) -> np.ndarray:
    """Zeros after the last residue, and after the last row of features that have rows."""
    has_rows = name in ("msa_feat", "msa_mask", "true_msa", "bert_mask")
    target = (rows, residues) if has_rows else (residues,)
    padded = np.zeros((*target, *value.shape[len(target) :]), value.dtype)
    padded[tuple(slice(size) for size in value.shape[: len(target)])] = value
    return padded
