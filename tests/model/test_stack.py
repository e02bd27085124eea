"""A stack of blocks: it is their succession, with parameters whole or in parts, and a key of its own for each."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from quick_compile import QUICK

from evotrain.config import ModelConfig
from evotrain.model.layers import Dense, Policy
from evotrain.model.network import bind
from evotrain.model.stack import Stack
from evotrain.parallel import fsdp
from evotrain.parallel.mesh import ALL_AXES, BATCH_AXES, vary

LENGTH, CHANNELS = 3, 4
CONFIG = ModelConfig(blocks=1, c_m=CHANNELS, c_z=1, msa_heads=1, pair_heads=1, c_triangle=1)


class Block(nnx.Module):
    """Two carried arrays, one that is shared, and noise."""

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.dense = Dense((config.c_m,), (config.c_m,), policy=policy, rngs=rngs)

    def __call__(self, x: jax.Array, total: jax.Array, scale: jax.Array, key: jax.Array | None) -> Any:
        x = jnp.tanh(self.dense(x)) * scale
        x = x if key is None else x + jax.random.normal(key, x.shape)
        return x, total + jnp.sum(x)


def stack(remat: str = "block") -> Stack:
    return Stack(Block, CONFIG, LENGTH, policy=Policy(remat=remat), rngs=nnx.Rngs(0))


def test_its_parameters_are_those_of_the_blocks_with_a_layer_dimension():
    params = nnx.to_pure_dict(nnx.state(stack(), nnx.Param))
    assert {name: x.shape for name, x in params["blocks"]["dense"].items()} == {
        "weights": (LENGTH, CHANNELS, CHANNELS),
        "bias": (LENGTH, CHANNELS),
    }
    first, second, _ = params["blocks"]["dense"]["weights"]
    assert np.all(first != second)


@pytest.mark.parametrize("remat", ["none", "block"])
@pytest.mark.parametrize("seed", [None, 0])
def test_it_is_the_succession_of_its_blocks(remat: str, seed: int | None):
    key = None if seed is None else jax.random.key(seed)
    whole = stack(remat)
    x, total, scale = jnp.arange(float(CHANNELS)), jnp.zeros(()), jnp.full(CHANNELS, 2.0)
    found = whole.scan((x, total), (scale,), key)

    graphdef, params = nnx.split(whole.blocks)
    keys = [None] * LENGTH if key is None else jax.random.split(key, LENGTH)
    for layer, key in enumerate(keys):
        block = nnx.merge(graphdef, jax.tree.map(partial(jnp.take, indices=layer, axis=0), params))
        x, total = block(x, total, scale, key)
    for a, b in zip(found, (x, total), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_parameters_that_devices_split_are_gathered_block_by_block():
    graphdef, params = nnx.split(nnx.eval_shape(stack), nnx.Param)
    shapes = nnx.to_pure_dict(params)
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    x = rng.normal(size=(2, CHANNELS)).astype(np.float32)

    def gradient(params: Any, x: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return bind(graphdef, params).scan((x, jnp.sum(x)), (jnp.ones(CHANNELS),))[1]

        return jax.grad(loss)(params)

    def on_a_device(params: Any, x: jax.Array) -> Any:
        return fsdp.reduce_gradients(gradient(*vary((params, x[0]), BATCH_AXES)), params)

    mesh = jax.make_mesh((1, 2, 1), ALL_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:2])
    specs = fsdp.specs(shapes, 2)
    run = jax.jit(jax.shard_map(on_a_device, mesh=mesh, in_specs=(specs, P("fsdp")), out_specs=specs))
    program = run.lower(values, x).compile(QUICK)
    assert "all-gather" in program.as_text()
    expected = [jax.jit(gradient, compiler_options=QUICK)(values, row) for row in x]
    jax.tree.map(
        lambda found, *parts: np.testing.assert_allclose(found, sum(parts), rtol=1e-5, atol=1e-6),
        program(values, x),
        *expected,
    )
