"""The extra MSA: more sequences than the clusters, in a narrow stack that only the pair representation leaves.

Dimensions: E sequences, N residues (rows I and columns J of a pair), H heads, D channels of a head, C channels.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.data.protein import MSA_CLASSES
from evotrain.model.attention import MASKED_LOGIT
from evotrain.model.evoformer import EvoformerBlock
from evotrain.model.layers import Dense, LayerNorm, Policy
from evotrain.model.stack import Stack
from evotrain.parallel.context import shard

EXTRA_MSA_FEATURES = MSA_CLASSES + 2  # deletion flag and value
EPSILON = 1e-10


class GlobalAttention(nnx.Module):
    """Attention of each row's mean query, gated by position (AlphaFold 2, Suppl. Alg. 19, lines 2-7).

    The heads share keys and values. x [N, E, C] already normalised, mask [N, E] -> [N, E, C]. A row without any valid
    position is averaged uniformly.
    """

    def __init__(self, channels: int, heads: int, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        head_dim = channels // heads
        into, per_head = (channels,), (heads, head_dim)
        self.query = Dense(into, per_head, kind="qkv", bias=False, **built)
        self.key = Dense(into, (head_dim,), kind="qkv", bias=False, **built)
        self.value = Dense(into, (head_dim,), kind="qkv", bias=False, **built)
        self.gate = Dense(into, per_head, kind="gate", **built)
        self.output = Dense(per_head, into, kind="final", **built)

    def __call__(self, x_NEC: jax.Array, mask_NE: jax.Array) -> jax.Array:
        wide = jnp.promote_types(x_NEC.dtype, jnp.float32)
        mask_NE = mask_NE.astype(wide)
        total_NC = jnp.einsum("ne,nec->nc", mask_NE, x_NEC.astype(wide))
        mean_NC = total_NC / (EPSILON + jnp.sum(mask_NE, axis=1, keepdims=True))

        q_NHD = self.query(mean_NC)
        k_NED, v_NED = self.key(x_NEC), self.value(x_NEC)
        logits_NHE = jnp.einsum("nhd,ned->nhe", q_NHD * q_NHD.shape[-1] ** -0.5, k_NED).astype(wide)
        logits_NHE = jnp.where(mask_NE[:, None] > 0, logits_NHE, MASKED_LOGIT)
        weights_NHE = jax.nn.softmax(logits_NHE, axis=-1).astype(v_NED.dtype)
        averages_NHD = jnp.einsum("nhe,ned->nhd", weights_NHE, v_NED)
        return self.output(averages_NHD[:, None] * jax.nn.sigmoid(self.gate(x_NEC)))


class MSAColumnGlobalAttention(nnx.Module):
    """Global attention over the sequences of an alignment column (AlphaFold 2, Suppl. Alg. 19).

    m [E, N, c_m] and mask [E, N], sharded along N -> update of m.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.norm = LayerNorm(config.c_m, policy=policy)
        self.attention = GlobalAttention(config.c_m, config.msa_heads, policy=policy, rngs=rngs)

    def __call__(self, m_ENC: jax.Array, mask_EN: jax.Array) -> jax.Array:
        m_NEC = self.norm(jnp.swapaxes(m_ENC, 0, 1))
        return jnp.swapaxes(self.attention(m_NEC, mask_EN.T), 0, 1)


class ExtraMSABlock(EvoformerBlock):
    """An Evoformer block whose column attention is global, so that its cost is linear in the sequences."""

    column_attention_class = MSAColumnGlobalAttention


class ExtraMSA(nnx.Module):
    """Embeds the extra MSA and informs the pair representation by it (AlphaFold 2, Suppl. Alg. 2, 14-16, and 18).

    Whole extra_msa classes [E, N], has_deletion, deletion_value and mask [E, N], z [N, N, c_z] sharded along rows and
    whole pair_mask [N, N] -> new z.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        extra = config.extra_msa
        self.embed = Dense((EXTRA_MSA_FEATURES,), (extra.c_m,), policy=policy, rngs=rngs)
        narrow = replace(config, c_m=extra.c_m, msa_heads=extra.heads, msa_head_dim=None)
        self.stack = Stack(ExtraMSABlock, narrow, extra.blocks, policy=policy, rngs=rngs)

    def __call__(
        self,
        extra_msa_EN: jax.Array,
        has_deletion_EN: jax.Array,
        deletion_value_EN: jax.Array,
        mask_EN: jax.Array,
        z: jax.Array,
        pair_mask: jax.Array,
        key: jax.Array | None = None,
    ) -> jax.Array:
        classes_ENC = jax.nn.one_hot(shard(extra_msa_EN, 0), MSA_CLASSES, dtype=z.dtype)
        deletions_EN2 = jnp.stack([shard(has_deletion_EN, 0), shard(deletion_value_EN, 0)], axis=-1)
        m = self.embed(jnp.concatenate([classes_ENC, deletions_EN2.astype(z.dtype)], axis=-1))
        _, z = self.stack.scan((m, z), (mask_EN, pair_mask), key)
        return z
