"""The extra MSA: masks, the order of its sequences, initialisation, precision."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from parity import Arrays
from quick_compile import QUICK
from trunk_parts import CONFIG, EXTRA_SEQUENCES, arguments, float32, params, program

from evotrain.model.extra_msa import ExtraMSA
from evotrain.model.layers import Policy


@cache
def plain() -> Any:
    """(z, given) -> new z and its gradient by z, in float32 with random parameters."""
    module, weights = program("extra_msa"), float32(params("extra_msa"))

    def run(z: jax.Array, given: Arrays) -> Any:
        new_z, pull_back = jax.vjp(lambda z: module(weights, {"z": z}, given)["z"], z)
        return new_z, pull_back(jnp.ones_like(new_z))[0]

    return jax.jit(run, compiler_options=QUICK)


def test_sequences_may_be_permuted():
    inputs, given = float32(arguments("extra_msa"))
    order = np.random.default_rng(1).permutation(EXTRA_SEQUENCES)
    shuffled = {name: x[order] if name.startswith("extra") else x for name, x in given.items()}
    assert np.any(shuffled["extra_msa"] != given["extra_msa"])
    found, expected = (plain()(inputs["z"], features)[0] for features in (shuffled, given))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_masked_sequences_change_nothing():
    inputs, given = float32(arguments("extra_msa"))
    masked = np.all(given["extra_msa_mask"] == 0, axis=1)[:, None]
    assert np.any(masked)
    changed = given | {"extra_msa": np.where(masked, 7, given["extra_msa"])}
    found, expected = (plain()(inputs["z"], features)[0] for features in (changed, given))
    np.testing.assert_array_equal(found, expected)


def test_without_any_sequence_everything_is_finite():
    inputs, given = float32(arguments("extra_msa"))
    for masks in (("extra_msa_mask",), ("extra_msa_mask", "pair_mask")):
        empty = given | {name: np.zeros_like(given[name]) for name in masks}
        assert all(np.all(np.isfinite(x)) for x in plain()(inputs["z"], empty))


def test_fresh_parameters_change_nothing_and_have_the_published_spread():
    inputs, given = float32(arguments("extra_msa"))

    @partial(jax.jit, compiler_options=QUICK)
    def run(inputs: Arrays, given: Arrays) -> tuple[Arrays, jax.Array]:
        state = nnx.state(ExtraMSA(CONFIG, policy=Policy(init="af2"), rngs=nnx.Rngs(0)), nnx.Param)
        fresh = nnx.to_pure_dict(state)
        return fresh, program("extra_msa")(fresh, inputs, given)["z"]

    fresh, new_z = run(inputs, given)
    np.testing.assert_array_equal(new_z, inputs["z"])
    # Glorot's limit, of a matrix and of a weight that has a dimension for the heads.
    attention, c, head = fresh["stack"]["blocks"]["column_attention"]["attention"], 8, 4
    for part, limit in (("key", (6 / (c + head)) ** 0.5), ("query", (6 / (c * (2 + head))) ** 0.5)):
        largest = np.abs(attention[part]["weights"]).max()
        assert 0.8 * limit < largest <= limit, part


def test_bfloat16_is_near_float32():
    inputs, given = float32(arguments("extra_msa"))
    wide, _ = plain()(inputs["z"], given)
    narrowed = jax.jit(program("extra_msa", jnp.bfloat16), compiler_options=QUICK)
    narrow = narrowed(float32(params("extra_msa")), {"z": jnp.asarray(inputs["z"], jnp.bfloat16)}, given)["z"]
    assert narrow.dtype == jnp.bfloat16
    assert np.abs(np.asarray(narrow, np.float32) - wide).max() < 0.03 * np.abs(wide).max()
