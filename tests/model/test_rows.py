"""Modules that compute a few rows at a time against the same with all rows at once; and where they do."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from context_mesh import assert_equal_on_context_mesh
from flax import nnx
from jax.sharding import AxisType
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.config import ModelConfig
from evotrain.model import rows
from evotrain.model.evoformer import EvoformerBlock
from evotrain.model.layers import Policy
from evotrain.model.network import bind
from evotrain.model.rows import map_rows

SEQUENCES, RESIDUES = 6, 8
CONFIG = ModelConfig(blocks=1, c_m=8, c_z=6, msa_heads=2, pair_heads=2, c_outer=3, c_triangle=5, transition_factor=2)
SMALL_CACHE = 300  # numbers: a few rows of each module, and for some a number that does not divide them


def block_program() -> tuple[Callable, Any, dict[str, Any], dict[str, Any]]:
    """(parameters, inputs, masks) -> outputs of a block, and random ones of each."""
    empty = nnx.eval_shape(lambda: EvoformerBlock(CONFIG, policy=Policy(), rngs=nnx.Rngs(0)))
    graphdef, shapes = nnx.split(empty, nnx.Param)
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(size=shape, scale=scale).astype(np.float32)

    def program(params: Any, inputs: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        m, z = bind(graphdef, params)(inputs["m"], inputs["z"], given["msa_mask"], given["pair_mask"])
        return {"m": m, "z": z}

    params = jax.tree.map(lambda x: normal(*x.shape, scale=0.3), nnx.to_pure_dict(shapes))
    inputs = {"m": normal(SEQUENCES, RESIDUES, CONFIG.c_m), "z": normal(RESIDUES, RESIDUES, CONFIG.c_z)}
    given = {
        "msa_mask": (rng.random((SEQUENCES, RESIDUES)) < 0.8).astype(np.float32),
        "pair_mask": (rng.random((RESIDUES, RESIDUES)) < 0.8).astype(np.float32),
    }
    return program, params, inputs, given


def gradients(function: Callable) -> Callable:
    def run(params: Any, inputs: Any, given: Any) -> Any:
        outputs, pull_back = jax.vjp(lambda *args: function(*args, given), params, inputs)
        return outputs, pull_back(outputs)

    return run


def loops(function: Callable, *arguments: Any) -> int:
    return str(jax.make_jaxpr(function)(*arguments)).count("scan[")


def test_a_block_a_few_rows_at_a_time_equals_all_at_once(monkeypatch):
    program, *arguments = block_program()
    assert loops(program, *arguments) == 0
    expected = jax.jit(gradients(program), compiler_options=QUICK)(*arguments)
    monkeypatch.setattr(rows, "CPU_CACHE", SMALL_CACHE)
    program, *arguments = block_program()
    assert loops(program, *arguments) == 11  # every part has one, a triangle multiplication two
    found = jax.jit(gradients(program), compiler_options=QUICK)(*arguments)
    error, array = largest_error(found, expected)
    assert error < 1e-5, array


def test_a_few_rows_at_a_time_on_a_context_mesh(monkeypatch):
    monkeypatch.setattr(rows, "CPU_CACHE", SMALL_CACHE // 3)
    assert_equal_on_context_mesh(*block_program(), devices=2)


@pytest.mark.parametrize("chunk", [1, 3, 4])  # 3 does not divide the 8 rows
def test_trees_of_rows_in_chunks(chunk: int):
    def function(rows: Any) -> Any:
        x, y = rows
        return {"product": x * y[:, None], "sum": jnp.sum(jnp.sin(x), axis=1)}

    def run(chunk: int | None) -> Any:
        def mapped(x: jax.Array, y: jax.Array) -> Any:
            return map_rows(function, (x, y), numbers=1, chunk=chunk)

        def with_gradients(x: jax.Array, y: jax.Array) -> Any:
            out, pull_back = jax.vjp(mapped, x, y)
            return out, pull_back(out)

        return jax.vmap(with_gradients)  # micro-batches are vmapped

    rng = np.random.default_rng(0)
    given = rng.normal(size=(2, 8, 5)).astype(np.float32), rng.normal(size=(2, 8)).astype(np.float32)
    assert [loops(run(c), *given) > 0 for c in (None, chunk)] == [False, True]
    found, expected = (run(c)(*given) for c in (chunk, None))
    error, array = largest_error(found, expected)
    assert error < 1e-6, array


def test_a_single_chunk_is_computed_again_too():
    """However many devices share the rows, they do the same operations."""

    def sines(chunk: int | None) -> int:
        def total(x: jax.Array) -> jax.Array:
            return jnp.sum(map_rows(lambda x: jnp.sin(jnp.sin(x)), x, numbers=1, chunk=chunk))

        return str(jax.make_jaxpr(jax.grad(total))(jnp.ones((4, 3)))).count(" sin ")

    assert (sines(None), sines(4)) == (2, 3)


@pytest.mark.parametrize(("rows", "chunks"), [(17, {9, 8}), (65, {13}), (33, {11}), (69, {14, 13}), (113, {15, 8})])
def test_chunks_are_as_small_as_their_number_allows(rows: int, chunks: set[int]):
    sizes = []

    def note(x: jax.Array) -> jax.Array:
        sizes.append(x.shape[0])
        return x

    jax.eval_shape(lambda x: map_rows(note, x, numbers=1, chunk=16), jnp.ones((rows, 1)))
    assert set(sizes) == chunks | {rows}  # and the shape of the whole


def test_values_that_are_not_finite_stay_in_their_rows():
    x = jnp.ones((4, 3)).at[0].set(jnp.nan)

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(map_rows(jnp.sin, x, numbers=1, chunk=1)[1:])

    assert np.isfinite(total(x))
    np.testing.assert_array_equal(np.isfinite(jax.grad(total)(x)), [[False] * 3] + [[True] * 3] * 3)


def test_an_accelerator_gets_all_rows():
    x = jnp.zeros((64, rows.CPU_CACHE // 16))
    found = {}
    for platform in ("cpu", "tpu"):
        device = jax.sharding.AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
        mesh = jax.sharding.AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            found[platform] = loops(lambda x: map_rows(jnp.sin, x, numbers=x[0].size), x)
    assert found == {"cpu": 1, "tpu": 0}
