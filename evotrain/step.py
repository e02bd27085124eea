"""One training step and one evaluation step: loss → gradients → guards → update → average.

Everything here runs inside one full-manual `shard_map` over the whole mesh, on the parts that a device holds: its
examples of the batch, its share of parameters and optimizer state, and within an example its context shard.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from evotrain import optimizer
from evotrain.config import Config
from evotrain.model.network import Arrays, Choices, Example, Metrics, bind, draw_choices, network, outputs
from evotrain.model.recycling import Recycled
from evotrain.parallel import fsdp
from evotrain.parallel.mesh import (
    BATCH_AXES,
    BATCH_SPEC,
    PAIR_ROWS_SPEC,
    batch_shard_index,
    differing_axes,
    sum_over_batch,
    vary,
    varying_axes,
)
from evotrain.state import TrainState, state_specs

# Separate these keys from those that initialise the parameters.
DROPOUT_STREAM, CHOICES_STREAM = 1, 2


def train_step(config: Config, mesh: Mesh) -> Callable[[TrainState, Example], tuple[TrainState, Metrics]]:
    """The jitted step: (state, batch) -> (new state, metrics averaged over the batch); the old state is given away."""
    specs = state_specs(config, mesh)
    step = partial(_train, config, *network(config))
    # A step that may have to be run again in search of a NaN keeps what it was given.
    return _sharded(config, mesh, step, (specs, BATCH_SPEC), (specs, P()), donate=() if config.debug.nans else (0,))


def gradient_step(config: Config, mesh: Mesh) -> Callable[[Any, Example, jax.Array], tuple[Any, Metrics]]:
    """The gradient alone: (params, batch, examples seen) -> (gradient as the update uses it, metrics)."""
    specs = state_specs(config, mesh).params
    step = partial(_gradients, config, *network(config))
    return _sharded(config, mesh, step, (specs, BATCH_SPEC, P()), (specs, P()))


def eval_step(config: Config, mesh: Mesh) -> Callable[[Any, Example], tuple[Metrics, Arrays, Arrays]]:
    """(params, batch) -> metrics [B], maps [B, N, N] and predictions by residue [B, N, …] of each example."""
    specs = state_specs(config, mesh).params
    step = partial(_evaluate, *network(config))
    return _sharded(config, mesh, step, (specs, BATCH_SPEC), (BATCH_SPEC, PAIR_ROWS_SPEC, BATCH_SPEC))


def predict_step(config: Config, mesh: Mesh) -> Callable[[Any, Example, Recycled], tuple[Arrays, Recycled]]:
    """(params, an example's features for one pass, what the pass before left) -> (predictions, what this one leaves).

    For a mesh without data and fsdp axes to speak of, since there is one example. The predictions are those of
    `model.network.outputs`; the first pass is given zeros.
    """
    specs = state_specs(config, mesh).params
    # What a lone device holds must not be marked as a part.
    recycled = Recycled(BATCH_SPEC, PAIR_ROWS_SPEC if mesh.size > 1 else BATCH_SPEC, BATCH_SPEC)
    step = partial(_predict, *network(config))
    sharded = _sharded(config, mesh, step, (specs, BATCH_SPEC, recycled), (PAIR_ROWS_SPEC, BATCH_SPEC, recycled))

    def predict(params: Any, features: Example, recycled: Recycled) -> tuple[Arrays, Recycled]:
        batched = jax.tree.map(lambda x: x[None], (features, recycled))
        maps, residues, recycled = jax.tree.map(lambda x: x[0], sharded(params, *batched))
        return maps | residues, recycled

    return jax.jit(predict)


def _sharded(config: Config, mesh: Mesh, step: Callable, in_specs: Any, out_specs: Any, donate: tuple = ()) -> Callable:
    def with_precision(*args: Any) -> Any:
        with jax.default_matmul_precision(config.precision.matmul):
            return step(*args)

    sharded = jax.shard_map(with_precision, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=True)
    return jax.jit(sharded, donate_argnums=donate)


def _train(
    config: Config, graphdef: nnx.GraphDef, whole: Any, state: TrainState, batch: Example
) -> tuple[TrainState, Metrics]:
    opt = config.optimizer
    grads, metrics = _gradients(config, graphdef, whole, state.params, batch, state.examples)
    norm = fsdp.global_norm(grads)
    if opt.clip == "global":
        factor = optimizer.clip_factor(norm, opt.clip_norm)
        grads = jax.tree.map(lambda g: g * factor, grads)

    examples = state.examples + config.batch_size
    rate = optimizer.learning_rate(opt, examples)
    params, opt_state = optimizer.update(opt, grads, state.params, state.opt_state, rate)
    ema = optimizer.average(state.ema, params, opt.ema_decay)

    # A gradient that is not finite changes nothing but the position in the data.
    finite = jnp.isfinite(norm)
    kept = (state.params, state.opt_state, state.ema)
    params, opt_state, ema = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (params, opt_state, ema), kept)
    skipped = jnp.where(finite, 0, state.skipped + 1)

    metrics |= {"grad_norm": norm, "lr": rate, "skipped": skipped, "examples": examples}
    return TrainState(state.step + 1, examples, skipped, params, opt_state, ema), metrics


def _gradients(
    config: Config, graphdef: nnx.GraphDef, whole: Any, params: Any, batch: Example, examples: jax.Array
) -> tuple[Any, Metrics]:
    """The gradient of the mean loss, clipped by example if so configured, and the metrics' means over the batch.

    Two are no means but numbers: `data/substituted` of examples in the batch that another protein had to step in for,
    `data/skipped` of the proteins that could not be read for them. The device's examples are scanned in micro-batches.
    Clipping an example's gradient needs all of it on one device, so then the parameters are gathered once a step;
    otherwise the stack gathers them block by block.
    """
    per_example = config.optimizer.clip == "per_example"
    weights = vary(fsdp.gather(params, whole) if per_example else params, differing_axes())
    choices = draw_choices(config.model, _key(config, CHOICES_STREAM, examples))
    loss = partial(_loss, graphdef, whole, choices)
    micro_gradients = partial(_clipped_sum if per_example else _plain_sum, config, loss, weights)

    def body(total: Any, micro: tuple[Example, jax.Array]) -> tuple[Any, None]:
        # Barriers keep XLA from moving sums over devices out of this loop, on which its TPU compiler breaks off. Each
        # array has its own: behind one for all, metrics would count as differing where gradients do.
        new = jax.tree.map(lax.optimization_barrier, micro_gradients(*micro))
        return jax.tree.map(jnp.add, total, new), None

    rows = next(iter(batch.values())).shape[0]
    index = examples + batch_shard_index() * rows + jnp.arange(rows)
    keys = jax.vmap(partial(_key, config, DROPOUT_STREAM))(index)
    micro = jax.tree.map(lambda x: x.reshape(-1, config.mesh.microbatch, *x.shape[1:]), (batch, keys))

    shapes = jax.eval_shape(micro_gradients, *jax.tree.map(lambda x: x[0], micro))
    zeros = jax.tree.map(lambda x: vary(jnp.zeros(x.shape, x.dtype), tuple(varying_axes(x))), shapes)
    (grads, metrics), _ = lax.scan(body, zeros, micro)
    grads, metrics = fsdp.reduce_gradients(grads, params), sum_over_batch(metrics)
    grads, metrics = jax.tree.map(lambda x: x / config.batch_size, (grads, metrics))
    unread = {"data/substituted": jnp.sum(batch["skipped"] > 0), "data/skipped": jnp.sum(batch["skipped"])}
    return grads, metrics | sum_over_batch(jax.tree.map(jnp.float32, unread))


def _key(config: Config, stream: int, examples: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), stream), examples)


def _loss(
    graphdef: nnx.GraphDef, whole: Any, choices: Choices, weights: Any, example: Example, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    return bind(graphdef, fsdp.gather_unstacked(weights, whole)).loss(example, key, choices)


def _plain_sum(config: Config, loss: Callable, weights: Any, micro: Example, keys: jax.Array) -> tuple[Any, Metrics]:
    """The summed gradient and metrics of a micro-batch."""

    def total(weights: Any) -> tuple[jax.Array, Metrics]:
        return _sum_of_examples(partial(loss, weights), micro, keys)

    grads, metrics = jax.grad(total, has_aux=True)(weights)
    return grads, metrics


def _clipped_sum(config: Config, loss: Callable, weights: Any, micro: Example, keys: jax.Array) -> tuple[Any, Metrics]:
    """The same with each example's gradient clipped to its own norm (AlphaFold 2, Suppl. 1.11.3)."""

    def clipped(example: Example, key: jax.Array) -> tuple[Any, Metrics]:
        grads, metrics = jax.grad(loss, has_aux=True)(weights, example, key)
        grads = fsdp.sum_context(grads)
        norm = fsdp.norm(grads)
        factor = optimizer.clip_factor(norm, config.optimizer.clip_norm)
        metrics |= {"example_grad_norm": norm, "clipped": (factor < 1.0).astype(jnp.float32)}
        return jax.tree.map(lambda g: g * factor, grads), metrics

    return _sum_of_examples(clipped, micro, keys)


def _sum_of_examples(function: Callable, *micro: Any) -> Any:
    """The sum of what `function` makes of each example of a micro-batch.

    One example alone meets no vmap, so that kernels need not know of one.
    """
    if jax.tree.leaves(micro)[0].shape[0] == 1:
        return function(*jax.tree.map(lambda x: x[0], micro))
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.vmap(function)(*micro))


def _evaluate(graphdef: nnx.GraphDef, whole: Any, params: Any, batch: Example) -> tuple[Metrics, Arrays, Arrays]:
    weights = vary(params, BATCH_AXES)
    return lax.map(lambda example: bind(graphdef, fsdp.gather_unstacked(weights, whole)).predict(example), batch)


def _predict(
    graphdef: nnx.GraphDef, whole: Any, params: Any, features: Example, recycled: Recycled
) -> tuple[Arrays, Arrays, Recycled]:
    weights = vary(params, BATCH_AXES)

    def one(example: tuple[Example, Recycled]) -> tuple[Arrays, Arrays, Recycled]:
        features, recycled = example
        prediction = bind(graphdef, fsdp.gather_unstacked(weights, whole))(features, recycled)
        return *outputs(prediction, features), prediction.recycled

    return lax.map(one, (features, recycled))
