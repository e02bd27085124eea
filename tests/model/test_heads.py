"""The heads, and what is read off a distogram."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.model.heads import DistogramHead, MaskedMSAHead, contact_probability, distance_breaks, expected_distance
from evotrain.model.layers import Policy

CONFIG = ModelConfig(blocks=1, c_m=6, c_z=4, msa_heads=1, pair_heads=1, c_triangle=4)


def certain(bins: list[int]) -> np.ndarray:
    """Logits [1, pairs, 64] that put all probability into one bin for each pair."""
    return 1e4 * np.eye(64, dtype=np.float32)[bins][None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_and_the_distogram_is_symmetric(dtype: str):
    built = {"policy": Policy(dtype=jnp.dtype(dtype), init="lecun"), "rngs": nnx.Rngs(0)}
    msa = MaskedMSAHead(CONFIG, **built)(jax.random.normal(jax.random.key(0), (3, 5, 6), dtype))
    distogram = DistogramHead(CONFIG, **built)(jax.random.normal(jax.random.key(1), (5, 5, 4), dtype))
    assert (msa.shape, msa.dtype) == ((3, 5, 23), jnp.float32)
    assert (distogram.shape, distogram.dtype) == ((5, 5, 64), jnp.float32)
    np.testing.assert_array_equal(distogram, np.swapaxes(distogram, 0, 1))


def test_distance_bins_are_those_of_alphafold():
    breaks = np.asarray(distance_breaks())
    assert breaks.shape == (63,)
    np.testing.assert_allclose(breaks[[0, 1, 18, -1]], [2.3125, 2.625, 7.9375, 21.6875], rtol=1e-6)


def test_contact_is_a_distance_below_eight_angstroms():
    np.testing.assert_allclose(contact_probability(certain([0, 18, 19, 63])), [[1, 1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(contact_probability(np.zeros((1, 1, 64), np.float32)), 19 / 64, rtol=1e-5)


def test_expected_distance_takes_a_bin_at_its_centre():
    first_two_and_last = [2.3125 - 0.15625, 2.3125 + 0.15625, 21.6875 + 0.15625]
    np.testing.assert_allclose(expected_distance(certain([0, 1, 63])), [first_two_and_last], rtol=1e-5)
    between = np.zeros((1, 1, 64), np.float32)
    between[..., [10, 20]] = 1e4  # equally probable
    expected = (expected_distance(certain([10])) + expected_distance(certain([20]))) / 2
    np.testing.assert_allclose(expected_distance(between), expected, rtol=1e-5)
