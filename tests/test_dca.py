import tracemalloc

import numpy as np
import pytest

from evotrain import dca
from evotrain.dca import average_product_correction, contact_scores, sequence_weights


def textbook_norms(msa, pseudocount, identity):
    """Mean-field DCA as the paper has it: the inverse over 20 states a column, the last class the reference."""
    msa = np.minimum(msa, 20).astype(int)
    columns = msa.shape[1]
    similar = np.array([[(a == b).mean() >= identity - 1e-9 for b in msa] for a in msa])
    weight = 1 / similar.sum(1)
    weight /= weight.sum()
    single = np.zeros((columns, 21))
    pair = np.zeros((columns, columns, 21, 21))
    for row, w in zip(msa, weight, strict=True):
        single[np.arange(columns), row] += w
        for i in range(columns):
            pair[i, np.arange(columns), row[i], row] += w
    single = (1 - pseudocount) * single + pseudocount / 21
    pair = (1 - pseudocount) * pair + pseudocount / 21**2
    for i in range(columns):
        pair[i, i] = np.diag(single[i])
    covariance = pair - single[:, None, :, None] * single[None, :, None, :]
    size = columns * 20
    covariance = covariance[:, :, :20, :20].transpose(0, 2, 1, 3).reshape(size, size)
    couplings = np.zeros((columns, columns, 21, 21))
    inverse = np.linalg.inv(covariance).reshape(columns, 20, columns, 20)
    couplings[:, :, :20, :20] = -inverse.transpose(0, 2, 1, 3)
    couplings = couplings - couplings.mean(2, keepdims=True)
    couplings = couplings - couplings.mean(3, keepdims=True)
    norms = np.sqrt((couplings[:, :, :20, :20] ** 2).sum((2, 3)))
    np.fill_diagonal(norms, 0)
    return norms


@pytest.mark.parametrize("pseudocount", [0.5, 0.1])
@pytest.mark.parametrize("sequences", [30, 200])  # fewer and more than 21 N
def test_equals_the_textbook_inverse(pseudocount, sequences):
    rng = np.random.default_rng(0)
    msa = rng.integers(0, 22, (sequences, 7)).astype(np.uint8)
    msa[10:14] = msa[9]
    expected = average_product_correction(textbook_norms(msa, pseudocount, 0.8))
    np.testing.assert_allclose(contact_scores(msa, pseudocount=pseudocount), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sequences", [40, 130])
def test_both_ways_to_invert_give_the_same_scores(monkeypatch, sequences):
    rng = np.random.default_rng(6)
    msa = rng.integers(0, 22, (sequences, 4)).astype(np.uint8)
    msa[10:14] = msa[9]
    weight = sequence_weights(msa, 0.8)
    monkeypatch.setattr(dca, "ROWS", 16)  # several blocks, the last one not full
    np.testing.assert_array_equal(sequence_weights(msa, 0.8), weight)
    weight = weight / weight.sum()
    few, many = (
        dca._block_norms(invert(dca._deviations(msa, weight, 0.5), 0.5).reshape(4, dca.CLASSES, -1))
        for invert in (dca._woodbury_factors, dca._direct_factors)
    )
    assert few.max() > 0.1
    np.testing.assert_allclose(many, few, rtol=1e-9, atol=1e-12)


def test_no_array_grows_with_the_square_of_the_sequences():
    rng = np.random.default_rng(7)
    msa = rng.integers(0, 20, (6000, 4)).astype(np.uint8)
    tracemalloc.start()
    contact_scores(msa)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6000**2  # bytes: a float32 matrix of all pairs would take four times as much


def test_scores_are_symmetric_in_blocks_of_any_size():
    rng = np.random.default_rng(1)
    msa = rng.integers(0, 20, (20, 70)).astype(np.uint8)
    scores = contact_scores(msa)
    np.testing.assert_array_equal(scores, scores.T)
    np.testing.assert_array_equal(np.diag(scores), 0)
    order = rng.permutation(70)
    np.testing.assert_allclose(contact_scores(msa[:, order]), scores[order][:, order], rtol=1e-8, atol=1e-11)


def test_finds_the_pair_that_varies_together():
    rng = np.random.default_rng(2)
    msa = rng.integers(0, 20, (200, 10)).astype(np.uint8)
    msa[:, 7] = (msa[:, 2] + 3) % 20
    scores = contact_scores(msa)
    assert np.unravel_index(scores.argmax(), scores.shape) == (2, 7)


def test_direct_couplings_rank_before_indirect_ones():
    rng = np.random.default_rng(3)
    msa = rng.integers(0, 4, (2000, 6)).astype(np.uint8)

    def copy(column):
        return np.where(rng.random(2000) < 0.75, column, rng.integers(0, 4, 2000))

    msa[:, 1] = copy(msa[:, 0])
    msa[:, 2] = copy(msa[:, 1])
    scores = contact_scores(msa)
    assert min(scores[0, 1], scores[1, 2]) > 2 * abs(scores[0, 2])


def test_repeated_sequences_share_one_weight():
    rng = np.random.default_rng(4)
    msa = rng.integers(0, 20, (5, 40)).astype(np.uint8)
    repeated = np.concatenate([msa, np.repeat(msa[:1], 9, 0)])
    np.testing.assert_allclose(sequence_weights(repeated, 0.8), [0.1, 1, 1, 1, 1] + [0.1] * 9)
    np.testing.assert_allclose(contact_scores(repeated), contact_scores(msa), rtol=1e-8, atol=1e-10)


def test_identity_threshold_is_inclusive():
    msa = np.zeros((2, 10), np.uint8)
    msa[1, :2] = 1
    np.testing.assert_allclose(sequence_weights(msa, 0.8), [0.5, 0.5])
    msa[1, 2] = 1
    np.testing.assert_allclose(sequence_weights(msa, 0.8), [1, 1])


@pytest.mark.parametrize(
    "msa",
    [
        np.zeros((1, 6), np.uint8),
        np.arange(6, dtype=np.uint8)[None].repeat(9, 0),
        np.full((4, 6), 21, np.uint8),
        np.zeros((3, 1), np.uint8),
    ],
    ids=["one row", "identical rows", "gaps only", "one column"],
)
def test_an_alignment_without_variation_scores_zero(msa):
    np.testing.assert_allclose(contact_scores(msa), 0, atol=1e-9)


def test_gaps_and_unknowns_do_not_disturb_the_rest():
    rng = np.random.default_rng(5)
    msa = rng.integers(0, 20, (100, 8)).astype(np.uint8)
    msa[:, 3] = 21
    msa[:, 5] = msa[:, 0]
    gapped = contact_scores(msa)
    assert np.isfinite(gapped).all()
    assert np.unravel_index(gapped.argmax(), gapped.shape) == (0, 5)
    msa[:, 3] = 20
    np.testing.assert_array_equal(contact_scores(msa), gapped)


def test_average_product_correction_removes_a_rank_one_background():
    strength = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    background = np.outer(strength, strength)
    corrected = average_product_correction(background)
    assert np.abs(corrected).max() < 0.35 * background.max()
    np.testing.assert_array_equal(np.diag(corrected), 0)
    np.testing.assert_allclose(average_product_correction(np.ones((4, 4))), 0, atol=1e-12)
