"""The heads that read the final MSA and pair representations.

Dimensions: S sequences, N residues (rows I, columns J), B distance bins.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.contacts import CONTACT_CUTOFF
from evotrain.data.protein import MSA_CLASSES
from evotrain.model.layers import Dense, Policy
from evotrain.parallel.context import switch

DISTANCE_BINS = 64
FIRST_BREAK, LAST_BREAK = 2.3125, 21.6875  # Å, borders of the first and the last bin


class MaskedMSAHead(nnx.Module):
    """Logits of the hidden residues (AlphaFold 2, Suppl. 1.9.9): m [S, N, c_m] -> float32 [S, N, 23]."""

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.logits = Dense((config.c_m,), (MSA_CLASSES,), kind="final", policy=policy, rngs=rngs)

    def __call__(self, m: jax.Array) -> jax.Array:
        logits = self.logits(m)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


class DistogramHead(nnx.Module):
    """Logits of the Cβ distance (AlphaFold 2, Suppl. 1.9.8): z [N, N, c_z] -> symmetric float32 [N, N, 64].

    Both are sharded along rows.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.half_logits = Dense((config.c_z,), (DISTANCE_BINS,), kind="final", policy=policy, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        half_IJB = self.half_logits(z)
        half_IJB = half_IJB.astype(jnp.promote_types(half_IJB.dtype, jnp.float32))
        return half_IJB + jnp.swapaxes(switch(half_IJB, 0, 1), 0, 1)


def distance_breaks() -> jax.Array:
    """The 63 borders between bins, float32 in Å."""
    return jnp.linspace(FIRST_BREAK, LAST_BREAK, DISTANCE_BINS - 1)


def contact_probability(logits_IJB: jax.Array) -> jax.Array:
    """The probability [I, J] of a distance below 8 Å: of the bins that end there or before."""
    ends_IJB = jnp.concatenate([distance_breaks(), jnp.array([jnp.inf])])[None, None]
    return jnp.sum(jax.nn.softmax(logits_IJB) * (ends_IJB <= CONTACT_CUTOFF), axis=-1)


def expected_distance(logits_IJB: jax.Array) -> jax.Array:
    """The mean distance [I, J] in Å, each bin taken at its centre and the open ones half a bin beyond their border."""
    width = (LAST_BREAK - FIRST_BREAK) / (DISTANCE_BINS - 2)
    centres_B = FIRST_BREAK + width * (jnp.arange(DISTANCE_BINS) - 0.5)
    return jnp.sum(jax.nn.softmax(logits_IJB) * centres_B[None, None], axis=-1)
