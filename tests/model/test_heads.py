"""The heads, and what is read off their logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from evotrain.config import ModelConfig, StructureConfig
from evotrain.model.heads import (
    AlignedErrorHead,
    DistogramHead,
    MaskedMSAHead,
    PLDDTHead,
    ResolvedHead,
    aligned_error_breaks,
    contact_probability,
    distance_breaks,
    expected_distance,
    plddt,
    predicted_aligned_error,
    ptm,
)
from evotrain.model.layers import Policy
from evotrain.parallel.mesh import ALL_AXES, CONTEXT

STRUCTURE = StructureConfig(layers=1, c_s=5, c_confidence=3)
CONFIG = ModelConfig(blocks=1, c_m=6, c_z=4, msa_heads=1, pair_heads=1, c_triangle=4, structure=STRUCTURE)
RESIDUES = 24
RNG = np.random.default_rng(0)
PLDDT_LOGITS = 3.0 * RNG.normal(size=(RESIDUES, 50)).astype(np.float32)
ALIGNED_ERROR_LOGITS = 3.0 * RNG.normal(size=(RESIDUES, RESIDUES, 64)).astype(np.float32)
SEQ_MASK = (np.arange(RESIDUES) < 21).astype(np.float32)


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_of_confidence_are_float32(dtype: str):
    built = {"policy": Policy(dtype=jnp.dtype(dtype), init="lecun"), "rngs": nnx.Rngs(0)}
    single, z = jnp.ones((7, 5), dtype), jnp.ones((7, 7, 4), dtype)
    for cls, inputs, shape in (
        (PLDDTHead, single, (7, 50)),
        (ResolvedHead, single, (7, 37)),
        (AlignedErrorHead, z, (7, 7, 64)),
    ):
        logits = jax.eval_shape(cls(CONFIG, **built), inputs)
        assert (logits.shape, logits.dtype) == (shape, jnp.float32), cls


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


def test_confidence_equals_the_reference():
    confidence = pytest.importorskip("alphafold.common.confidence", reason="the reference is in the extra `test`")
    np.testing.assert_allclose(plddt(PLDDT_LOGITS), confidence.compute_plddt(PLDDT_LOGITS), rtol=1e-5)
    breaks = np.asarray(aligned_error_breaks())
    expected = confidence.compute_predicted_aligned_error(ALIGNED_ERROR_LOGITS, breaks)["predicted_aligned_error"]
    np.testing.assert_allclose(predicted_aligned_error(ALIGNED_ERROR_LOGITS), expected, rtol=1e-5)
    for mask in (np.ones_like(SEQ_MASK), SEQ_MASK, np.roll(SEQ_MASK, 9)):
        expected = confidence.predicted_tm_score(ALIGNED_ERROR_LOGITS, breaks, mask)
        np.testing.assert_allclose(ptm(ALIGNED_ERROR_LOGITS, mask), expected, rtol=1e-5)


def test_a_certain_prediction_says_its_bin():
    assert plddt(50.0 * np.eye(50, dtype=np.float32)[[0, 49]]) == pytest.approx([1.0, 99.0])
    bins = np.array([[0, 1, 62, 63]])
    expected = [[0.25, 0.75, 31.25, 31.75]]  # a bin stands for the errors of the next one, as published
    np.testing.assert_allclose(predicted_aligned_error(99.0 * np.eye(64)[bins]), expected, rtol=1e-5)


def test_devices_that_share_an_example_find_the_tm_score_of_one():
    mesh = jax.make_mesh((1, 1, 8), ALL_AXES, axis_types=(AxisType.Auto,) * 3)
    on_shards = jax.jit(jax.shard_map(ptm, mesh=mesh, in_specs=(P(CONTEXT), P()), out_specs=P()))
    found, expected = on_shards(ALIGNED_ERROR_LOGITS, SEQ_MASK), ptm(ALIGNED_ERROR_LOGITS, SEQ_MASK)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 0.0 < expected < 1.0
