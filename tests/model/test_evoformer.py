"""The Evoformer block and stack: initialisation, dropout, rematerialisation, precision, masks and depth."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.config import ModelConfig
from evotrain.model.evoformer import EvoformerBlock, EvoformerStack
from evotrain.model.layers import Policy
from evotrain.model.network import bind

SEQUENCES, RESIDUES = 4, 6
CONFIG = ModelConfig(blocks=2, c_m=8, c_z=6, msa_heads=2, pair_heads=2, c_outer=3, c_triangle=5, transition_factor=2)
UPDATES = {  # where the dropout of an update is shared: dimension 0 are sequences or rows, dimension 1 columns
    "row_attention": ("m", 0),
    "triangle_outgoing": ("z", 0),
    "triangle_incoming": ("z", 0),
    "attention_starting": ("z", 0),
    "attention_ending": ("z", 1),
}
WITHOUT_DROPOUT = {"column_attention": "m", "msa_transition": "m", "outer_product_mean": "z", "pair_transition": "z"}


def arguments(dtype: str = "float32") -> tuple[jax.Array, ...]:
    """m, z and both masks; the third sequence and the last residue are padding."""
    rng = np.random.default_rng(0)
    m = rng.normal(size=(SEQUENCES, RESIDUES, CONFIG.c_m))
    z = rng.normal(size=(RESIDUES, RESIDUES, CONFIG.c_z))
    seq_mask = np.arange(RESIDUES) < RESIDUES - 1
    msa_mask = (rng.random((SEQUENCES, RESIDUES)) < 0.8) * seq_mask[None]
    msa_mask[2] = False
    masks = (msa_mask, seq_mask[:, None] & seq_mask[None])
    return *(jnp.asarray(x, dtype) for x in (m, z)), *(jnp.asarray(mask, jnp.float32) for mask in masks)


@cache
def random_params(blocks: int | None = None) -> Any:
    """Parameters of a block, or of a stack of so many, none of them zero."""
    whole = nnx.eval_shape(lambda: stack("none", blocks) if blocks else empty_block())
    rng = np.random.default_rng(0)
    shapes = nnx.to_pure_dict(nnx.state(whole, nnx.Param))
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), shapes)


def empty_block(dtype: str = "float32") -> EvoformerBlock:
    """A block of shapes only."""
    policy = Policy(dtype=jnp.dtype(dtype))
    return nnx.eval_shape(lambda: EvoformerBlock(CONFIG, policy=policy, rngs=nnx.Rngs(0)))


def block(dtype: str = "float32") -> EvoformerBlock:
    return bind(nnx.graphdef(empty_block(dtype)), random_params())


def stack(remat: str, blocks: int = 2) -> EvoformerStack:
    return EvoformerStack(replace(CONFIG, blocks=blocks), policy=Policy(remat=remat), rngs=nnx.Rngs(0))


def gradient(remat: str, blocks: int = 2) -> jax.stages.Lowered:
    """(params, m, z, masks, key) -> (m, z) and the gradients of their squares by the parameters, m and z."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: stack(remat, blocks)), nnx.Param)

    def run(params: Any, m: jax.Array, z: jax.Array, msa_mask: jax.Array, pair_mask: jax.Array, key: jax.Array) -> Any:
        def loss(params: Any, m: jax.Array, z: jax.Array) -> Any:
            out = bind(graphdef, params)(m, z, msa_mask, pair_mask, key)
            return sum(jnp.mean(jnp.square(x)) for x in out), out

        grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(params, m, z)
        return out, grads

    return jax.jit(run).lower(nnx.to_pure_dict(params), *arguments(), jax.random.key(0))


@cache
def compiled(remat: str, blocks: int = 2) -> Callable:
    return gradient(remat, blocks).compile(QUICK)


def dot_products(program: str) -> int:
    return program.count(" dot(")


def test_a_fresh_block_is_the_identity():
    m, z, *masks = arguments()
    fresh = EvoformerBlock(CONFIG, policy=Policy(init="af2"), rngs=nnx.Rngs(0))
    new_m, new_z = jax.jit(fresh, compiler_options=QUICK)(m, z, *masks)
    np.testing.assert_array_equal(new_m, m)
    np.testing.assert_array_equal(new_z, z)


def test_dropout_is_shared_by_rows_and_for_the_ending_node_by_columns():
    for name, (changed, shared) in UPDATES.items():
        updated, other = updates_of(name)
        assert not np.any(other), name
        rate = CONFIG.msa_dropout if changed == "m" else CONFIG.pair_dropout
        np.testing.assert_allclose(np.unique(updated), [0, 1 / (1 - rate)], rtol=1e-6, err_msg=name)
        own = np.take(updated, 0, axis=shared)
        assert np.all(updated == np.expand_dims(own, shared)), name
        # Along the other dimensions every position draws for itself.
        assert all(np.any(own != np.take(own, [0], axis=axis)) for axis in (0, 1)), name
    for name, changed in WITHOUT_DROPOUT.items():
        updated, other = updates_of(name)
        assert np.all(updated == 1), (name, changed)
        assert not np.any(other), name


def updates_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """What a block makes of zeros if the update `name` is one everywhere and every other is zero; the changed first."""
    msa, pair = np.zeros((20, 30, 8), np.float32), np.zeros((30, 30, 6), np.float32)
    changed = UPDATES[name][0] if name in UPDATES else WITHOUT_DROPOUT[name]
    shapes = {part: msa.shape if of == "m" else pair.shape for part, of in WITHOUT_DROPOUT.items()}
    shapes |= {part: msa.shape if of == "m" else pair.shape for part, (of, _) in UPDATES.items()}

    one = empty_block()
    for part, shape in shapes.items():
        setattr(one, part, lambda *args, value=float(part == name), shape=shape: jnp.full(shape, value))
    out = one(msa, pair, np.ones(msa.shape[:2], np.float32), np.ones(pair.shape[:2], np.float32), jax.random.key(3))
    return tuple(np.asarray(x) for x in (out if changed == "m" else out[::-1]))


def test_rematerialisation_changes_the_program_and_no_gradient():
    programs = {remat: compiled(remat).as_text() for remat in ("none", "block")}
    counts = {remat: dot_products(program) for remat, program in programs.items()}
    assert counts["none"] < counts["block"], counts
    expected = compiled("none")(random_params(2), *arguments(), jax.random.key(0))
    found = compiled("block")(random_params(2), *arguments(), jax.random.key(0))
    error, array = largest_error(found, expected)
    assert error < 1e-5, array


def test_a_key_draws_dropout_and_the_same_key_the_same():
    run = compiled("block")
    first, again, other = (run(random_params(2), *arguments(), jax.random.key(seed))[0][0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_any_valid_position_everything_is_finite():
    m, z, *masks = arguments()
    out = compiled("block")(random_params(2), m, z, *(jnp.zeros_like(mask) for mask in masks), jax.random.key(0))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(out))


def test_sequences_other_than_the_query_may_be_permuted():
    m, z, msa_mask, pair_mask = arguments()
    order = np.array([0, 3, 1, 2])
    run = compiled("block")
    (plain_m, plain_z), _ = run(random_params(2), m, z, msa_mask, pair_mask, jax.random.key(0))
    (new_m, new_z), _ = run(random_params(2), m[order], z, msa_mask[order], pair_mask, jax.random.key(0))
    assert not np.allclose(new_m, plain_m, atol=1e-2)
    np.testing.assert_allclose(new_m, plain_m[order], atol=1e-5 * np.abs(plain_m).max())
    np.testing.assert_allclose(new_z, plain_z, atol=1e-5 * np.abs(plain_z).max())


def test_depth_does_not_grow_the_program():
    sizes = {}
    for blocks in (2, 48):
        start = time.monotonic()
        sizes[blocks] = len(compiled("block", blocks).as_text())
        print(f"{blocks} blocks: {sizes[blocks]} characters of HLO, {time.monotonic() - start:.1f} s")
    assert sizes[48] <= 1.1 * sizes[2]


def test_bfloat16_is_near_float32():
    m, z, *masks = arguments()
    wide = jax.jit(block(), compiler_options=QUICK)(m, z, *masks)
    narrow = jax.jit(block("bfloat16"), compiler_options=QUICK)(*arguments("bfloat16"))
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.abs(np.asarray(a, np.float32) - b).max() < 0.03 * np.abs(b).max()


def test_softmax_and_layer_norm_of_bfloat16_compute_in_float32():
    program = jax.make_jaxpr(block("bfloat16"))(*arguments("bfloat16")).jaxpr
    dtypes: dict[str, set[str]] = {}
    for equation in equations(program):
        dtypes.setdefault(equation.primitive.name, set()).add(str(equation.invars[0].aval.dtype))
    for statistic in ("exp", "rsqrt", "square", "reduce_sum", "reduce_max", "div"):
        assert dtypes[statistic] == {"float32"}, statistic
    assert "bfloat16" in dtypes["dot_general"]


def equations(program: Any) -> Iterator[Any]:
    """All equations of a jaxpr, also those of the functions that it calls."""
    for equation in program.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            yield from equations(getattr(inner, "jaxpr", inner)) if hasattr(inner, "eqns") else ()
