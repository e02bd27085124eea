"""The input embedding: MSA representation and pair representation from features.

Dimensions: S sequences, N residues (rows I, columns J), C channels.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.model.layers import Dense, Policy
from evotrain.parallel.context import shard

TARGET_FEATURES = 22  # a chain-break flag, 20 residue types, unknown
MSA_FEATURES = 49  # 23 classes, deletion flag and value, 23 profile classes, mean deletion
MAX_RELATIVE = 32  # residues; larger distances along the chain share a class
SINUSOID_CHANNELS = 64
LONGEST_WAVELENGTH = 10_000.0


class InputEmbedding(nnx.Module):
    """Embeds MSA and target features (AlphaFold 2, Suppl. Alg. 3).

    target_feat [N, 22] and residue_index [N] whole, msa_feat [S, N, 49] sharded along S -> m [S, N, c_m] sharded alike
    and z [N, N, c_z] sharded along rows.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        self.target = Dense((TARGET_FEATURES,), (config.c_m,), **built)
        self.msa = Dense((MSA_FEATURES,), (config.c_m,), **built)
        self.left = Dense((TARGET_FEATURES,), (config.c_z,), **built)
        self.right = Dense((TARGET_FEATURES,), (config.c_z,), **built)
        self.position = POSITIONS[config.position](config, **built)

    def __call__(
        self, target_feat_NC: jax.Array, msa_feat_SNC: jax.Array, residue_index_N: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        m = self.msa(msa_feat_SNC) + self.target(target_feat_NC)[None]
        z = self.left(shard(target_feat_NC, 0))[:, None] + self.right(target_feat_NC)[None]
        offset_IJ = shard(residue_index_N, 0)[:, None] - residue_index_N[None]
        return m, z + self.position(offset_IJ)


class ClippedPosition(nnx.Module):
    """A linear map of the one-hot of the clipped distance along the chain (AlphaFold 2, Suppl. Alg. 4)."""

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.project = Dense((2 * MAX_RELATIVE + 1,), (config.c_z,), policy=policy, rngs=rngs)

    def __call__(self, offset_IJ: jax.Array) -> jax.Array:
        classes = jnp.clip(offset_IJ + MAX_RELATIVE, 0, 2 * MAX_RELATIVE)
        return self.project(jax.nn.one_hot(classes, 2 * MAX_RELATIVE + 1))


class SinusoidalPosition(nnx.Module):
    """A linear map of sines and cosines of the signed distance along the chain (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.project = Dense((SINUSOID_CHANNELS,), (config.c_z,), policy=policy, rngs=rngs)

    def __call__(self, offset_IJ: jax.Array) -> jax.Array:
        half = SINUSOID_CHANNELS // 2
        frequencies = jnp.exp(jnp.arange(half) * (-math.log(LONGEST_WAVELENGTH) / half))
        angles = offset_IJ[..., None].astype(jnp.float32) * frequencies[None, None]
        return self.project(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1))


POSITIONS = {"clipped": ClippedPosition, "sinusoidal": SinusoidalPosition}
