"""The loss that is minimised."""

import jax
import jax.numpy as jnp

from evotrain.config import LossConfig


def weighted_total(parts: dict[str, jax.Array], residues: jax.Array, config: LossConfig) -> jax.Array:
    """The loss that is minimised: `parts` by the name of their weight, scaled by the root of the length."""
    total = sum(getattr(config, name) * part for name, part in parts.items())
    return total * jnp.sqrt(residues) if config.scale_by_length else total
