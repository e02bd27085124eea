"""Mean-field direct coupling analysis (Morcos et al., PNAS 2011): contacts from one alignment, without training.

The couplings are minus the inverse of the covariance of the residue indicators. With a pseudocount that covariance is
the same well-conditioned block on each site plus a term of rank M + 1. Where an alignment has fewer than N Q sequences
the inverse follows from one of M + 1 rows (Woodbury), else the covariance is inverted as it stands: both are exact.

Memory is that of a few float64 matrices [N Q, min(M, N Q)] and of the indicators, float32 [M, N Q]; time grows as
M² N Q, for the weights.

Legend: M sequences, N columns, Q = 21 classes (20 residues, and gap or unknown).
"""

from collections.abc import Iterable, Iterator

import numpy as np

GAP_CLASS = 20
CLASSES = 21
BLOCK = 32  # columns whose couplings are held in memory at a time
ROWS = 512  # sequences that are compared with all, or whose deviations are held in memory, at a time


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
    least = identity * columns - 1e-3
    similar = [(indicator[rows] @ indicator.T >= least).sum(1) for rows in _row_blocks(sequences)]
    return 1.0 / np.concatenate(similar)


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


def _row_blocks(sequences: int) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, sequences, ROWS)]


def _coupling_factors(msa: np.ndarray, pseudocount: float, identity: float) -> np.ndarray:
    """F [N, Q, ·] such that the zero-sum couplings of columns i and j are F_i F_jᵀ, or minus that.

    Let p be the weighted frequencies and U the deviations √((1-λ) w) (x - p), one column a sequence, and
    √((1-λ) λ) (p - 1/Q). With λ the pseudocount the covariance is UUᵀ + λ/Q on each site. The deviations sum to zero
    over the classes: they are in the zero-sum gauge as they stand, and no reference class has to be dropped.
    """
    sequences, columns = msa.shape
    weight = sequence_weights(msa, identity)
    deviations = _deviations(msa, weight / weight.sum(), pseudocount)
    factors = _woodbury_factors if sequences < columns * CLASSES else _direct_factors
    return factors(deviations, pseudocount).reshape(columns, CLASSES, -1)


def _deviations(msa: np.ndarray, weight: np.ndarray, pseudocount: float) -> Iterator[np.ndarray]:
    """Uᵀ of `_coupling_factors`, float64 [M + 1, N Q], in blocks of rows; `weight` [M] sums to one."""
    blocks = _row_blocks(len(msa))
    frequency = np.zeros((msa.shape[1], CLASSES))
    for rows in blocks:
        frequency += np.einsum("m,mnq->nq", weight[rows], _indicators(msa[rows], np.float64))
    for rows in blocks:
        deviation = _indicators(msa[rows], np.float64) - frequency
        yield np.sqrt((1 - pseudocount) * weight[rows])[:, None] * deviation.reshape(len(deviation), -1)
    yield np.sqrt((1 - pseudocount) * pseudocount) * (frequency - 1 / CLASSES).reshape(1, -1)


def _woodbury_factors(deviations: Iterable[np.ndarray], pseudocount: float) -> np.ndarray:
    """The factors [N Q, M + 1], given Uᵀ [M + 1, N Q] in blocks of rows."""
    flat = np.concatenate(list(deviations))
    scale = CLASSES / pseudocount
    lower = np.linalg.cholesky(np.eye(len(flat)) + scale * flat @ flat.T)
    return (scale * np.linalg.solve(lower, flat)).T


def _direct_factors(deviations: Iterable[np.ndarray], pseudocount: float) -> np.ndarray:
    """The factors [N Q, N Q] of the inverse covariance itself, given Uᵀ [M + 1, N Q] in blocks of rows."""
    covariance = sum(block.T @ block for block in deviations)  # UUᵀ
    covariance[np.diag_indices_from(covariance)] += pseudocount / CLASSES
    lower = np.linalg.cholesky(covariance)
    return np.linalg.inv(lower).T


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
