"""Fully sharded parameters, by themselves, on eight simulated devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jax.tree_util import DictKey

from evotrain.parallel import fsdp
from evotrain.parallel.mesh import ALL_AXES, BATCH_SPEC, CONTEXT, FSDP, differing_axes, vary

RNG = np.random.default_rng(0)
LAYERS, EXAMPLES, CHANNELS = 3, 8, 16
PARAMS = {
    "head": {"weights": RNG.normal(size=(CHANNELS, 4)).astype(np.float32)},  # split along dimension 1
    "bias": RNG.normal(size=3).astype(np.float32),  # never split
    "blocks": {"weights": RNG.normal(size=(LAYERS, 4, CHANNELS)).astype(np.float32)},  # split along dimension 1
}
X = RNG.normal(size=(EXAMPLES, 4)).astype(np.float32)


def mesh(data: int, parts: int, context: int) -> Mesh:
    return jax.make_mesh((data, parts, context), ALL_AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    ("shape", "parts", "dim"),
    [
        ((16, 64), 8, 0),  # the smallest
        ((64, 12), 8, 0),  # the smallest that divides
        ((12, 24, 40), 8, 1),
        ((16, 16), 8, 0),  # the first of equals
        ((7, 9), 8, None),
        ((8,), 8, 0),
        ((4,), 8, None),
        ((), 8, None),
        ((16, 64), 1, None),  # nothing to split among
    ],
)
def test_an_array_is_split_along_its_smallest_dimension_that_divides(shape: tuple, parts: int, dim: int | None):
    assert fsdp.split_dim((DictKey("weights"),), shape, parts) == dim


@pytest.mark.parametrize(("shape", "dim"), [((48, 16, 8), 2), ((48, 7, 8), 2), ((48, 7), None)])
def test_the_layer_dimension_is_never_split(shape: tuple, dim: int | None):
    path = (DictKey("evoformer"), DictKey("blocks"), DictKey("weights"))
    assert fsdp.split_dim(path, shape, 8) == dim


def test_shardings_place_each_array_by_the_rule():
    placed = jax.device_put(PARAMS, fsdp.shardings(PARAMS, mesh(2, 4, 1)))
    shapes = jax.tree.map(lambda x: x.addressable_shards[0].data.shape, placed)
    assert shapes == {"head": {"weights": (16, 1)}, "bias": (3,), "blocks": {"weights": (LAYERS, 1, 16)}}
    assert fsdp.specs(PARAMS, 4)["blocks"]["weights"] == P(None, FSDP)
    assert fsdp.specs(PARAMS, 4)["bias"] == P()


def network(params: Any, x: jax.Array, whole: Any) -> jax.Array:
    """A loss in which every array has a part; the blocks are gathered one at a time, as in the Evoformer stack."""
    params = fsdp.gather_unstacked(params, whole)
    for layer in range(LAYERS):
        like = jax.ShapeDtypeStruct(whole["blocks"]["weights"].shape[1:], jnp.float32)
        x = x + jnp.tanh(x @ fsdp.gather(params["blocks"]["weights"][layer], like)) @ params["head"]["weights"]
    return jnp.sum(jnp.square(x[:, :3] - params["bias"][None]))


def gradient(on: Mesh, *, gather_first: bool) -> tuple[Any, jax.Array, jax.stages.Compiled]:
    """The gradient on a mesh, its norm, and the program; the devices of a context group each add their share."""
    whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)

    def step(params: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        weights = vary(fsdp.gather(params, whole) if gather_first else params, differing_axes())
        share = 1.0 + (jax.lax.axis_index(CONTEXT) if on.shape[CONTEXT] > 1 else 0)
        grads = jax.grad(lambda weights: share * network(weights, x, whole))(weights)
        grads = fsdp.reduce_gradients(grads, params)
        return grads, fsdp.global_norm(grads)

    specs = fsdp.specs(PARAMS, on.shape[FSDP])
    run = jax.jit(jax.shard_map(step, mesh=on, in_specs=(specs, BATCH_SPEC), out_specs=(specs, P())))
    placed = jax.device_put(PARAMS, fsdp.shardings(PARAMS, on))
    program = run.lower(placed, X).compile()
    return *run(placed, X), program


@pytest.mark.parametrize("gather_first", [True, False], ids=["gathered at once", "gathered by block"])
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_gradients_of_parts_are_parts_of_the_gradient(shape: tuple[int, int, int], gather_first: bool):
    grads, norm, program = gradient(mesh(*shape), gather_first=gather_first)
    expected = jax.grad(network)(PARAMS, X, PARAMS)
    shares = shape[2] * (shape[2] + 1) / 2
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, shares * b, atol=1e-5 * np.abs(shares * b).max())
    squares = sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(expected))
    np.testing.assert_allclose(norm, shares * np.sqrt(squares), rtol=1e-5)

    split = shape[1] > 1
    assert jax.tree.map(lambda x: x.sharding.spec, grads) == fsdp.specs(PARAMS, shape[1])
    assert ("all-gather" in program.as_text()) == split
    assert ("reduce-scatter" in program.as_text()) == split


def test_norm_is_that_of_everything_that_a_device_holds():
    assert fsdp.norm({"a": jnp.array([3.0]), "b": jnp.array([[4.0], [12.0]])}) == pytest.approx(13)


def test_gathering_what_is_whole_changes_nothing():
    assert fsdp.gather(PARAMS, PARAMS)["head"]["weights"] is PARAMS["head"]["weights"]
