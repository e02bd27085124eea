"""The heads that read the final representations, and what their logits say.

Dimensions: S sequences, N residues (rows I, columns J), B bins.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.contacts import CONTACT_CUTOFF
from evotrain.data.protein import MSA_CLASSES, NUM_ATOMS
from evotrain.model.layers import Dense, LayerNorm, Policy
from evotrain.parallel.context import first_shard_of, gather, shard, switch

DISTANCE_BINS = 64
FIRST_BREAK, LAST_BREAK = 2.3125, 21.6875  # Å, borders of the first and the last bin
LDDT_BINS = 50
ALIGNED_ERROR_BINS = 64
LAST_ERROR_BREAK = 31.0  # Å, where the last bin starts; the first starts at 0
TM_EPSILON = 1e-8  # in a denominator


class MaskedMSAHead(nnx.Module):
    """Logits of the hidden residues (AlphaFold 2, Suppl. 1.9.9): m [S, N, c_m] -> float32 [S, N, 23]."""

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.logits = Dense((config.c_m,), (MSA_CLASSES,), kind="final", policy=policy, rngs=rngs)

    def __call__(self, m: jax.Array) -> jax.Array:
        return _wide(self.logits(m))


class DistogramHead(nnx.Module):
    """Logits of the Cβ distance (AlphaFold 2, Suppl. 1.9.8): z [N, N, c_z] -> symmetric float32 [N, N, 64].

    Both are sharded along rows.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.half_logits = Dense((config.c_z,), (DISTANCE_BINS,), kind="final", policy=policy, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        half_IJB = _wide(self.half_logits(z))
        return half_IJB + jnp.swapaxes(switch(half_IJB, 0, 1), 0, 1)


class PLDDTHead(nnx.Module):
    """Logits of the lDDT-Cα of each residue (AlphaFold 2, Suppl. Alg. 29).

    The structure module's single representation [N, c_s] -> float32 [N, 50], bins of equal width from 0 to 1.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        single, hidden = (config.structure.c_s,), (config.structure.c_confidence,)
        self.norm = LayerNorm(config.structure.c_s, policy=policy)
        self.hidden_1 = Dense(single, hidden, kind="relu", **built)
        self.hidden_2 = Dense(hidden, hidden, kind="relu", **built)
        self.logits = Dense(hidden, (LDDT_BINS,), kind="final", **built)

    def __call__(self, single: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(self.hidden_1(self.norm(single)))
        return _wide(self.logits(jax.nn.relu(self.hidden_2(hidden))))


class ResolvedHead(nnx.Module):
    """Logits of whether an experiment resolves each atom (AlphaFold 2, Suppl. 1.9.10).

    The trunk's single representation [N, c_s] -> float32 [N, 37].
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.logits = Dense((config.structure.c_s,), (NUM_ATOMS,), kind="final", policy=policy, rngs=rngs)

    def __call__(self, single: jax.Array) -> jax.Array:
        return _wide(self.logits(single))


class AlignedErrorHead(nnx.Module):
    """Logits of the error of Cα J with backbone frame I aligned (AlphaFold 2, Suppl. 1.9.7).

    z [I, J, c_z] -> float32 [I, J, 64]. Both are sharded along rows.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.logits = Dense((config.c_z,), (ALIGNED_ERROR_BINS,), kind="final", policy=policy, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        return _wide(self.logits(z))


def _wide(logits: jax.Array) -> jax.Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


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


def plddt(logits_NB: jax.Array) -> jax.Array:
    """The expected lDDT-Cα [N], 0 to 100, each bin taken at its centre."""
    centres_B = (jnp.arange(LDDT_BINS) + 0.5) / LDDT_BINS
    return 100.0 * jnp.sum(jax.nn.softmax(logits_NB) * centres_B[None], axis=-1)


def aligned_error_breaks() -> jax.Array:
    """The 63 starts, in Å, of the bins of the aligned error after the first: 0, 0.5, …, 31."""
    return jnp.linspace(0.0, LAST_ERROR_BREAK, ALIGNED_ERROR_BINS - 1)


def aligned_error_centres() -> jax.Array:
    """What the 64 bins of the aligned error stand for in predictions, in Å: 0.25, 0.75, …, 31.75.

    The logits' first bin holds no error but exactly 0, and so each bin stands for the next one's errors, as published.
    """
    breaks_B = aligned_error_breaks()
    step = breaks_B[1] - breaks_B[0]
    return jnp.append(breaks_B, breaks_B[-1] + step) + step / 2


def predicted_aligned_error(logits_IJB: jax.Array) -> jax.Array:
    """The expected error [I, J] in Å of Cα J with the backbone frame of I aligned."""
    return jnp.sum(jax.nn.softmax(logits_IJB) * aligned_error_centres()[None, None], axis=-1)


def ptm(logits_IJB: jax.Array, mask_N: jax.Array) -> jax.Array:
    """The predicted TM-score [], 0 to 1 (AlphaFold 2, Suppl. 1.9.7): of the alignment on the best residue's frame.

    logits of the aligned error [I, J, 64] sharded along rows; mask [N], whole, of the residues that count.
    """
    length = jnp.maximum(jnp.sum(mask_N), 19.0)  # where the TM-score's length scale is still positive
    scale = 1.24 * jnp.cbrt(length - 15.0) - 1.8  # Å (Zhang and Skolnick, 2004)
    score_B = 1.0 / (1.0 + jnp.square(aligned_error_centres() / scale))
    score_IJ = jnp.sum(jax.nn.softmax(logits_IJB) * score_B[None, None], axis=-1)
    aligned_I = jnp.sum(score_IJ * mask_N[None], axis=-1) / (TM_EPSILON + jnp.sum(mask_N))
    return first_shard_of(jnp.max(gather(aligned_I * shard(mask_N, 0), 0)))
