"""AlphaFold's optimizer: Adam, a schedule that counts examples, clipping, and the parameter average.

All functions work on the parts of parameters and gradients that a device holds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from evotrain.config import OptimizerConfig


def adam(config: OptimizerConfig) -> optax.GradientTransformation:
    """Adam's direction, without the learning rate."""
    return optax.scale_by_adam(config.b1, config.b2, config.eps)


def learning_rate(config: OptimizerConfig, examples: jax.Array) -> jax.Array:
    """The rate of the step that ends at this many examples: linear warm-up, then constant, then one drop."""
    examples = examples.astype(jnp.float32)
    rate = jnp.float32(config.lr)
    if config.warmup_examples > 0:
        rate *= jnp.minimum(1.0, examples / config.warmup_examples)
    if config.decay_examples is not None:
        rate *= jnp.where(examples > config.decay_examples, jnp.float32(config.decay_factor), 1.0)
    return rate


def clip_factor(norm: jax.Array, clip_norm: float) -> jax.Array:
    """What a gradient of this global norm is multiplied by."""
    return jnp.where(norm > clip_norm, clip_norm / norm, 1.0)


def update(
    config: OptimizerConfig, grads: Any, params: Any, opt_state: optax.ScaleByAdamState, rate: jax.Array
) -> tuple[Any, optax.ScaleByAdamState]:
    """One step of Adam -> parameters and optimizer state."""
    direction, opt_state = adam(config).update(grads, opt_state)
    return jax.tree.map(lambda p, d: p - rate * d, params, direction), opt_state


def average(ema: Any, params: Any, decay: float) -> Any:
    """The exponential moving average after a step."""
    return jax.tree.map(lambda old, new: old * decay + new * (1.0 - decay), ema, params)
