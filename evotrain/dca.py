"""Mean-field direct coupling analysis (Morcos et al., PNAS 2011): contacts from one alignment, without training.

The couplings are minus the inverse of the covariance of the residue indicators. With a pseudocount that covariance is
the same well-conditioned block on each site plus a term of rank M + 1, so the inverse follows from one of M + 1 rows
(Woodbury): exact, and cheap where an alignment has fewer than 21 N sequences.

Legend: M sequences, N columns, Q = 21 classes (20 residues, and gap or unknown).
"""

import numpy as np

GAP_CLASS = 20
CLASSES = 21
BLOCK = 32  # columns whose couplings are held in memory at a time


def contact_scores(msa: np.ndarray, *, pseudocount: float = 0.5, identity: float = 0.8) -> np.ndarray:
    """Coupling strength of each pair of columns, symmetric float64 [N, N] with a zero diagonal.

    `msa` is uint8 [M, N] in AlphaFold's classes (0-19 residues; 20 unknown and 21 gap count as one class). Sequences
    are weighted down by how many others share at least `identity` of their columns; `pseudocount` in (0, 1] is the
    share of uniform counts in the frequencies. Scores are Frobenius norms in the zero-sum gauge without the gap class,
    after the average product correction. An alignment without any variation scores zero everywhere.
    """
    assert msa.ndim == 2, msa.shape
    assert 0 < pseudocount <= 1, pseudocount
    factors = _coupling_factors(msa, pseudocount, identity)
    return average_product_correction(_block_norms(factors))


def sequence_weights(msa: np.ndarray, identity: float) -> np.ndarray:
    """One over the number of sequences, itself included, that share at least `identity` of the columns: [M]."""
    sequences, columns = msa.shape
    indicator = _indicators(msa, np.float32).reshape(sequences, -1)
    # Counts are whole numbers, exact in float32; the margin is for identity · columns.
    similar = indicator @ indicator.T >= identity * columns - 1e-3
    return 1.0 / similar.sum(1)


def average_product_correction(scores: np.ndarray) -> np.ndarray:
    """Scores [N, N] less what the averages of their row and column explain (Dunn et al., 2008); zero diagonal."""
    scores = scores.copy()
    np.fill_diagonal(scores, 0)
    total = scores.sum()
    if total > 0:
        # Means run over the N - 1 other columns.
        columns = len(scores)
        mean = scores.sum(0) / (columns - 1)
        scores -= np.outer(mean, mean) / (total / (columns * (columns - 1)))
        np.fill_diagonal(scores, 0)
    return scores


def _indicators(msa: np.ndarray, dtype: type) -> np.ndarray:
    """One-hot classes [M, N, Q]."""
    return np.eye(CLASSES, dtype=dtype)[np.minimum(msa, GAP_CLASS)]


def _coupling_factors(msa: np.ndarray, pseudocount: float, identity: float) -> np.ndarray:
    """F [N, Q, M + 1] such that the zero-sum couplings of columns i and j are F_i F_jᵀ.

    Let p be the weighted frequencies and U the deviations √((1-λ) w) (x - p), one column a sequence, and
    √((1-λ) λ) (p - 1/Q). With λ the pseudocount the covariance is UUᵀ + λ/Q on each site. The deviations sum to zero
    over the classes: they are in the zero-sum gauge as they stand, and no reference class has to be dropped.
    """
    weight = sequence_weights(msa, identity)
    weight = weight / weight.sum()
    indicator = _indicators(msa, np.float64)
    frequency = np.einsum("m,mnq->nq", weight, indicator)
    deviation = np.sqrt((1 - pseudocount) * weight)[:, None, None] * (indicator - frequency)
    shrinkage = np.sqrt((1 - pseudocount) * pseudocount) * (frequency - 1 / CLASSES)
    factor = np.concatenate([deviation, shrinkage[None]])
    flat = factor.reshape(len(factor), -1)
    scale = CLASSES / pseudocount
    lower = np.linalg.cholesky(np.eye(len(flat)) + scale * flat @ flat.T)
    return (scale * np.linalg.solve(lower, flat)).T.reshape(*frequency.shape, -1)


def _block_norms(factors: np.ndarray) -> np.ndarray:
    """Frobenius norms [N, N] of F_i F_jᵀ over the residue classes."""
    columns = len(factors)
    # Without the gap class: runs of gaps couple columns that do not touch.
    factors = np.ascontiguousarray(factors[:, :GAP_CLASS])
    norms = np.zeros((columns, columns))
    for start in range(0, columns, BLOCK):
        rows = factors[start : start + BLOCK]
        # Only the columns from here on: the norms are symmetric.
        product = rows.reshape(-1, rows.shape[-1]) @ factors[start:].reshape(-1, rows.shape[-1]).T
        product = product.reshape(len(rows), GAP_CLASS, columns - start, GAP_CLASS)
        block = np.sqrt(np.einsum("iajb,iajb->ij", product, product))
        norms[start : start + BLOCK, start:] = block
    # The lower triangle mirrors the upper one to the bit.
    upper = np.triu(norms, 1)
    return upper + upper.T
