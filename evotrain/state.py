"""What a run carries from step to step, as one pytree that is sharded, donated and saved whole."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from evotrain.config import Config
from evotrain.model.network import initial_params
from evotrain.optimizer import adam
from evotrain.parallel import fsdp


class TrainState(NamedTuple):
    """Parameters, Adam's moments and EMA are nested dicts of float32 arrays with the same keys and shapes."""

    step: jax.Array  # int32, optimizer steps done, whether or not they changed anything
    examples: jax.Array  # int32, examples seen: the position in the data and in the schedules
    skipped: jax.Array  # int32, non-finite gradients in a row
    params: Any
    opt_state: optax.ScaleByAdamState
    ema: Any


def initial_state(config: Config, key: jax.Array) -> TrainState:
    """The state of a run that starts from fresh parameters."""
    params = initial_params(config, key)
    zero = jnp.zeros((), jnp.int32)
    # A copy of its own: the step donates the state, and one buffer cannot be given away twice.
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(zero, zero, zero, params, adam(config.optimizer).init(params), ema)


def state_specs(config: Config, mesh: Mesh) -> TrainState:
    """The PartitionSpec of each array of the state."""
    return jax.tree.map(lambda x: x.sharding.spec, abstract_state(config, mesh))


def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """The state as ShapeDtypeStructs with their shardings."""
    shapes = jax.eval_shape(lambda: initial_state(config, jax.random.key(0)))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        fsdp.shardings(shapes, mesh),
    )


def create_state(config: Config, mesh: Mesh) -> TrainState:
    """A fresh state, each device making its own part."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(lambda key: initial_state(config, key), out_shardings=shardings)(jax.random.key(config.seed))
