"""The losses of the representations on hand-made logits, and what masks keep out of them."""

import jax
import numpy as np
import pytest

from evotrain.losses.representation import cross_entropy, distogram_loss, masked_msa_loss

RNG = np.random.default_rng(0)
MSA_LOGITS = RNG.normal(size=(3, 4, 23)).astype(np.float32)
TRUE_MSA = RNG.integers(0, 23, (3, 4))
HIDDEN = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32)
# On a line, in Å: distances 2.0 (first bin), 4.0, 6.0 and more than 21.6875 (last bin).
PSEUDO_BETA = np.array([[0.0, 0, 0], [2, 0, 0], [6, 0, 0], [40, 0, 0]], np.float32)
OBSERVED = np.array([1, 1, 1, 0], np.float32)


def log_probability(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_cross_entropy_is_the_negative_log_probability_of_the_label():
    expected = -np.take_along_axis(log_probability(MSA_LOGITS), TRUE_MSA[..., None], -1)[..., 0]
    np.testing.assert_allclose(cross_entropy(MSA_LOGITS, TRUE_MSA), expected, rtol=1e-5)


def test_cross_entropy_of_large_logits_is_finite():
    logits = np.array([[1e4, -1e4, 0.0]], np.float32)
    np.testing.assert_allclose(cross_entropy(logits, np.array([1])), [2e4])


def test_masked_msa_loss_is_the_mean_over_hidden_positions():
    loss, accuracy = masked_msa_loss(MSA_LOGITS, TRUE_MSA, HIDDEN)
    expected = -np.take_along_axis(log_probability(MSA_LOGITS), TRUE_MSA[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, expected[HIDDEN > 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(accuracy, (MSA_LOGITS.argmax(-1) == TRUE_MSA)[HIDDEN > 0].mean(), rtol=1e-5)
    certain = 100 * np.eye(23, dtype=np.float32)[TRUE_MSA]
    np.testing.assert_allclose(masked_msa_loss(certain, TRUE_MSA, HIDDEN), (0, 1), atol=1e-6)


def test_only_hidden_positions_have_a_gradient():
    gradient = jax.grad(lambda logits: masked_msa_loss(logits, TRUE_MSA, HIDDEN)[0])(MSA_LOGITS)
    np.testing.assert_array_equal(np.any(gradient != 0, axis=-1), HIDDEN > 0)


@pytest.mark.parametrize(("residue", "bin"), [(0, 0), (1, 0), (2, 12), (3, 63)])
def test_distances_fall_into_bins_of_alphafold(residue: int, bin: int):
    # From the first residue: 0, 2, 6 and 40 Å; the thirteenth bin ends at 6.0625 Å.
    logits = np.zeros((4, 4, 64), np.float32)
    only = np.zeros(4, np.float32)
    only[[0, residue]] = 1
    pairs = only[:, None] * only[None]
    logits[..., 0] = 50.0 * (np.eye(4) * pairs)  # the diagonal is certain to be in the first bin
    if residue:
        logits[0, residue, bin] = logits[residue, 0, bin] = 50.0
    np.testing.assert_allclose(distogram_loss(logits, PSEUDO_BETA, only), 0, atol=1e-6)


def test_distogram_loss_is_the_mean_over_observed_pairs():
    logits = RNG.normal(size=(4, 4, 64)).astype(np.float32)
    distances = np.abs(PSEUDO_BETA[:, None, 0] - PSEUDO_BETA[None, :, 0])
    labels = np.searchsorted(np.linspace(2.3125, 21.6875, 63), distances)
    errors = -np.take_along_axis(log_probability(logits), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(distogram_loss(logits, PSEUDO_BETA, OBSERVED), errors[:3, :3].mean(), rtol=1e-5)
    gradient = jax.grad(distogram_loss)(logits, PSEUDO_BETA, OBSERVED)
    np.testing.assert_array_equal(np.any(gradient != 0, axis=-1), OBSERVED[:, None] * OBSERVED[None] > 0)


def test_an_example_without_labels_has_no_loss_and_no_gradient():
    none, zeros = np.zeros((3, 4), np.float32), np.zeros((4, 4, 64), np.float32)
    (loss, accuracy), gradient = jax.value_and_grad(masked_msa_loss, has_aux=True)(MSA_LOGITS, TRUE_MSA, none)
    assert (loss, accuracy) == (0, 0)
    assert not np.any(gradient)
    loss, gradient = jax.value_and_grad(distogram_loss)(zeros, PSEUDO_BETA, np.zeros(4, np.float32))
    assert loss == 0
    assert not np.any(gradient)
