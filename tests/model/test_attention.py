"""Attention in chunks of rows, and rows without any valid key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.model.attention import GatedAttention, attend
from evotrain.model.layers import Policy

ROWS, RESIDUES, CHANNELS, HEADS = 7, 6, 8, 2


def arguments() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = rng.random((ROWS, RESIDUES)) < 0.7
    mask[3] = False
    shapes = (ROWS, RESIDUES, CHANNELS), (HEADS, RESIDUES, RESIDUES)
    x, bias = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return x, mask.astype(np.float32), bias


def gradients(chunk_rows: int | None):
    """(x, mask, bias) -> the attention's output and the gradients of its square by x, bias and every parameter."""
    attention = GatedAttention(
        CHANNELS, HEADS, None, policy=Policy(init="lecun", chunk_rows=chunk_rows), rngs=nnx.Rngs(0)
    )
    graphdef, params = nnx.split(attention)

    def run(x, mask, bias):
        def loss(x, bias, params):
            y = nnx.merge(graphdef, params)(x, mask, bias)
            return jnp.sum(jnp.square(y)), y

        grads, y = jax.grad(loss, (0, 1, 2), has_aux=True)(x, bias, params)
        return y, grads

    return run


@pytest.mark.parametrize("chunk_rows", [1, 3])  # 3 does not divide the 7 rows
def test_chunked_attention_equals_the_whole(chunk_rows: int):
    whole, chunked = gradients(None), gradients(chunk_rows)
    programs = [str(jax.make_jaxpr(f)(*arguments())) for f in (whole, chunked)]
    logits = f"f32[{ROWS},{HEADS},{RESIDUES},{RESIDUES}]"
    assert [logits in program for program in programs] == [True, False]

    found, expected = (jax.jit(f, compiler_options=QUICK)(*arguments()) for f in (chunked, whole))
    error, array = largest_error(found, expected)
    assert error < 1e-5, array


def test_a_chunk_of_more_rows_than_there_are_is_one_of_all_rows():
    programs = [str(jax.make_jaxpr(gradients(chunk))(*arguments())) for chunk in (ROWS, 2 * ROWS)]
    assert programs[0] == programs[1]
    assert "scan" not in programs[0]
    found, expected = (jax.jit(gradients(chunk), compiler_options=QUICK)(*arguments()) for chunk in (ROWS, None))
    error, array = largest_error(found, expected)
    assert error < 1e-5, array


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_without_any_valid_key_is_averaged_uniformly_and_ignores_its_logits(dtype: str):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 5, 1, 4)), dtype) for _ in range(3))
    mask = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]], np.float32)
    bias = rng.normal(size=(1, 5, 5)).astype(np.float32)
    out, pull_back = jax.vjp(lambda q, k, v: attend(q, k, v, mask, bias), q, k, v)
    by_q, by_k, by_v = pull_back(jnp.ones_like(out))
    np.testing.assert_allclose(
        np.asarray(out[1, :, 0], np.float32), np.tile(np.asarray(v[1, :, 0], np.float32).mean(0), (5, 1)), atol=2e-2
    )
    assert not np.any(by_q[1])
    assert not np.any(by_k[1])
    assert np.all(by_v[1] > 0)
    # Masked keys of the other row.
    assert not np.any(by_k[0, [2, 4]])
    assert not np.any(by_v[0, [2, 4]])
    assert np.all(by_v[0, [0, 1, 3]] > 0)
