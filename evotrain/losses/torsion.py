"""Torsion angles of side chains (AlphaFold 2, Suppl. Alg. 27).

Every array is whole; a device that shares the example with others takes its share of the residues.

Dimensions: L layers of the structure module, N residues; the angles are ω, φ, ψ and χ1 to χ4, as (sin, cos).
"""

import jax
import jax.numpy as jnp

from evotrain.parallel.context import shard, sum_shards
from evotrain.residues import CHI_PI_PERIODIC

FIRST_CHI = 3
EPSILON = 1e-10  # in a denominator
NORM_EPSILON = 1e-6  # in a root


def chi_loss(angles: jax.Array, aatype: jax.Array, chi_angles: jax.Array, chi_mask: jax.Array) -> jax.Array:
    """The mean squared chord from predicted to observed χ: angles [L, N, 7, 2] of unit length -> [].

    aatype [N], chi_angles [N, 4] in radians, chi_mask [N, 4]. Where a turn by 180° changes only names, the nearer
    of the two counts.
    """
    target = jnp.stack([jnp.sin(chi_angles), jnp.cos(chi_angles)], axis=-1)[None]
    periodic = jnp.asarray(CHI_PI_PERIODIC)[aatype][None, ..., None]
    predicted = angles[:, :, FIRST_CHI:]

    def error(target: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(predicted - target), axis=-1)

    return _mean(jnp.minimum(error(target), error((1.0 - 2.0 * periodic) * target)), chi_mask[None])


def angle_norm_loss(unnormalized: jax.Array, seq_mask: jax.Array) -> jax.Array:
    """The mean deviation of (sin, cos) [L, N, 7, 2] from unit length before normalisation, seq_mask [N] -> []."""
    norm = jnp.sqrt(jnp.sum(jnp.square(unnormalized), axis=-1) + NORM_EPSILON)
    return _mean(jnp.abs(norm - 1.0), seq_mask[None, :, None])


def _mean(errors: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of errors [L, N, …] over where the mask, with a size of 1 where it is broadcast, is 1."""
    repeats = errors.size // mask.size
    total = sum_shards(jnp.sum(shard(errors * mask, 1)))
    return total / (jnp.sum(mask) * repeats + EPSILON)
