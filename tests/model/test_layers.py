"""Dense, LayerNorm and dropout, and AlphaFold's initialisation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from evotrain.model.layers import LAYER_NORM_EPSILON, Dense, LayerNorm, Policy, dropout_mask, initial_weights

FLOAT32, BFLOAT16 = Policy(), Policy(dtype=jnp.dtype("bfloat16"))


def weights(kind: str, inputs: tuple[int, ...] = (256,), outputs: tuple[int, ...] = (8, 32), scheme: str = "af2"):
    return np.asarray(initial_weights(jax.random.key(0), inputs, outputs, kind=kind, scheme=scheme))


def test_attention_projections_have_three_dimensional_fans():
    w = weights("qkv")
    # Haiku counts the 256 channels as a receptive field: fans 256 · 8 and 256 · 32.
    limit = math.sqrt(3 / ((256 * 8 + 256 * 32) / 2))
    assert limit == pytest.approx(0.0242, abs=5e-5)
    assert 0.999 * limit < np.abs(w).max() <= limit
    assert w.std() == pytest.approx(limit / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(("kind", "variance"), [("linear", 1.0), ("relu", 2.0)])
def test_linear_weights_are_truncated_normal_by_fan_in(kind: str, variance: float):
    w = weights(kind, (16, 16), (128,))
    stddev = math.sqrt(variance / 256)
    assert w.shape == (16, 16, 128)
    assert w.std() == pytest.approx(stddev, rel=0.02)
    # Cut at two deviations of the normal, whose own deviation is larger than that of what is left of it.
    assert np.abs(w).max() == pytest.approx(2 * stddev / 0.8796, rel=0.01)


def test_pair_bias_weights_are_normal_without_truncation():
    w = weights("bias", (128,), (256,))
    assert w.std() == pytest.approx(1 / math.sqrt(128), rel=0.02)
    assert np.abs(w).max() > 3.5 / math.sqrt(128)


def test_gates_start_open_and_final_layers_at_zero():
    gate = Dense((4,), (6,), kind="gate", policy=FLOAT32, rngs=nnx.Rngs(0))
    final = Dense((4,), (6,), kind="final", policy=FLOAT32, rngs=nnx.Rngs(0))
    assert not np.any(gate.weights[...])
    assert np.all(gate.bias[...] == 1)
    assert not np.any(final.weights[...])
    assert not np.any(final.bias[...])


@pytest.mark.parametrize("kind", ["linear", "relu", "qkv", "gate", "final", "bias"])
def test_lecun_initialises_every_kind_alike(kind: str):
    layer = Dense((256,), (8, 32), kind=kind, policy=Policy(init="lecun"), rngs=nnx.Rngs(0))
    assert np.std(layer.weights[...]) == pytest.approx(1 / 16, rel=0.02)
    assert not np.any(layer.bias[...])


@pytest.mark.parametrize("policy", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_parameters_are_float32_and_the_output_has_the_dtype_of_the_policy(policy: Policy):
    x = jnp.ones((3, 4), policy.dtype)
    for layer in (Dense((4,), (4,), policy=policy, rngs=nnx.Rngs(0)), LayerNorm(4, policy=policy)):
        assert {p.dtype for p in jax.tree.leaves(nnx.state(layer))} == {jnp.dtype("float32")}
        assert layer(x).dtype == policy.dtype


def test_dense_contracts_the_trailing_dimensions():
    layer = Dense((3, 4), (5, 2), policy=Policy(init="lecun"), rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(10.0).reshape(5, 2)
    x = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    expected = np.einsum("nab,abcd->ncd", x, layer.weights[...]) + np.arange(10.0).reshape(1, 5, 2)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_layer_norm_adds_the_epsilon_of_alphafold_to_the_variance():
    x = jnp.array([[-1.0, 1.0]]) * math.sqrt(LAYER_NORM_EPSILON)  # the variance is as large as the epsilon
    assert LAYER_NORM_EPSILON == 1e-5
    np.testing.assert_allclose(LayerNorm(2, policy=FLOAT32)(x), [[-math.sqrt(0.5), math.sqrt(0.5)]], rtol=1e-5)


def test_layer_norm_is_exact_where_the_mean_is_large():
    x = 1e4 + np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + LAYER_NORM_EPSILON)
    np.testing.assert_allclose(LayerNorm(64, policy=FLOAT32)(x), expected, atol=2e-3)
    in_one_pass = jnp.mean(jnp.square(x), -1) - jnp.square(jnp.mean(x, -1))
    assert np.abs(in_one_pass - wide.var(-1)).max() > 0.5  # what the variance of one pass would have been off by


def test_layer_norm_of_bfloat16_has_float32_statistics():
    x = jnp.asarray(100 + np.random.default_rng(0).normal(size=(4, 256)), jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + LAYER_NORM_EPSILON)
    np.testing.assert_allclose(np.asarray(LayerNorm(256, policy=BFLOAT16)(x), np.float64), expected, atol=0.02)


def test_dropout_keeps_the_mean_and_needs_a_key():
    mask = np.asarray(dropout_mask(jax.random.key(0), 0.25, (1, 100, 100), jnp.float32))
    assert mask.shape == (1, 100, 100)
    np.testing.assert_allclose(np.unique(mask), [0, 4 / 3], rtol=1e-6)
    assert mask.mean() == pytest.approx(1, abs=0.02)
    assert dropout_mask(None, 0.25, (1, 2, 2), jnp.float32) == 1.0
    assert dropout_mask(jax.random.key(0), 0.0, (1, 2, 2), jnp.float32) == 1.0
