"""Gated self-attention, and the attention of the MSA stack over rows and columns.

Dimensions: R independent rows, Q queries, K keys, H heads, D channels of a head, S sequences, N residues (I, J of a
pair), C channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from evotrain.config import ModelConfig
from evotrain.model.kernels import attend_cueq
from evotrain.model.layers import Dense, LayerNorm, Policy
from evotrain.model.rows import map_rows
from evotrain.parallel.context import gather

# What a masked key's logit is replaced by, not increased by: a row without any valid key is then averaged uniformly,
# and neither its values nor its gradients depend on logits that mean nothing.
MASKED_LOGIT = -1e9


class GatedAttention(nnx.Module):
    """Gated multi-head self-attention within each row, with an optional bias shared by the rows.

    x [R, Q, C] already normalised, mask [R, K], bias [H, Q, K] -> [R, Q, C].
    """

    def __init__(self, channels: int, heads: int, head_dim: int | None, *, policy: Policy, rngs: nnx.Rngs):
        head_dim = head_dim or channels // heads
        self.policy, self.heads, self.head_dim = policy, heads, head_dim
        into, per_head = (channels,), (heads, head_dim)
        self.query = Dense(into, per_head, kind="qkv", bias=False, policy=policy, rngs=rngs)
        self.key = Dense(into, per_head, kind="qkv", bias=False, policy=policy, rngs=rngs)
        self.value = Dense(into, per_head, kind="qkv", bias=False, policy=policy, rngs=rngs)
        self.gate = Dense(into, per_head, kind="gate", policy=policy, rngs=rngs)
        self.output = Dense(per_head, into, kind="final", policy=policy, rngs=rngs)

    def __call__(self, x_RQC: jax.Array, mask_RK: jax.Array, bias_HQK: jax.Array | None = None) -> jax.Array:
        def attend_rows(rows: tuple[jax.Array, jax.Array]) -> jax.Array:
            x, mask = rows
            weighted = ATTEND[self.policy.attention](self.query(x), self.key(x), self.value(x), mask, bias_HQK)
            return self.output(weighted * jax.nn.sigmoid(self.gate(x)))

        positions = x_RQC.shape[1]
        numbers = self.heads * positions * (positions + 4 * self.head_dim)  # logits, and what is projected from x
        return map_rows(attend_rows, (x_RQC, mask_RK), numbers=numbers, chunk=self.policy.chunk_rows)


def attend(
    q_RQHD: jax.Array, k_RKHD: jax.Array, v_RKHD: jax.Array, mask_RK: jax.Array, bias_HQK: jax.Array | None
) -> jax.Array:
    """softmax(q·k/√D + bias + mask)·v within each row, the softmax in float32 -> [R, Q, H, D]."""
    scaled = q_RQHD * (q_RQHD.shape[-1] ** -0.5)
    q_RHQD, k_RHKD, v_RHKD = (jnp.swapaxes(x, 1, 2) for x in (scaled, k_RKHD, v_RKHD))
    logits_RHQK = jnp.einsum("rhqd,rhkd->rhqk", q_RHQD, k_RHKD)
    logits_RHQK = logits_RHQK.astype(jnp.promote_types(logits_RHQK.dtype, jnp.float32))
    if bias_HQK is not None:
        logits_RHQK += bias_HQK[None].astype(logits_RHQK.dtype)
    logits_RHQK = jnp.where(mask_RK[:, None, None, :] > 0, logits_RHQK, MASKED_LOGIT)
    # The softmax divides last, the D sums of a query instead of its K weights. It does not depend on the shift, and so
    # has no gradient by it.
    weights_RHQK = jnp.exp(logits_RHQK - jnp.max(lax.stop_gradient(logits_RHQK), axis=-1, keepdims=True))
    sums_RHQD = jnp.einsum("rhqk,rhkd->rhqd", weights_RHQK.astype(v_RKHD.dtype), v_RHKD)
    average_RHQD = sums_RHQD.astype(weights_RHQK.dtype) / jnp.sum(weights_RHQK, axis=-1, keepdims=True)
    return jnp.swapaxes(average_RHQD.astype(v_RKHD.dtype), 1, 2)


# By kernels.attention. All compute the same; chunks are made around them.
ATTEND = {"xla": attend, "xla_chunked": attend, "cueq": attend_cueq}


class PairBias(nnx.Module):
    """The attention bias that pair rows give: normalised z [I, J, C], sharded along I -> whole [H, I, J]."""

    def __init__(self, channels: int, heads: int, *, policy: Policy, rngs: nnx.Rngs):
        self.project = Dense((channels,), (heads,), kind="bias", bias=False, policy=policy, rngs=rngs)

    def __call__(self, z_IJC: jax.Array) -> jax.Array:
        return jnp.moveaxis(gather(self.project(z_IJC), 0), -1, 0)


class MSARowAttentionWithPairBias(nnx.Module):
    """Attention between residues of a sequence, biased by the pair representation (AlphaFold 2, Suppl. Alg. 7).

    m [S, N, c_m] sharded along S, z [N, N, c_z] sharded along its rows, mask [S, N] as m -> update of m.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.norm_m = LayerNorm(config.c_m, policy=policy)
        self.norm_z = LayerNorm(config.c_z, policy=policy)
        self.pair_bias = PairBias(config.c_z, config.msa_heads, policy=policy, rngs=rngs)
        self.attention = GatedAttention(config.c_m, config.msa_heads, config.msa_head_dim, policy=policy, rngs=rngs)

    def __call__(self, m_SNC: jax.Array, z_IJC: jax.Array, mask_SN: jax.Array) -> jax.Array:
        return self.attention(self.norm_m(m_SNC), mask_SN, self.pair_bias(self.norm_z(z_IJC)))


class MSAColumnAttention(nnx.Module):
    """Attention between the sequences of an alignment column (AlphaFold 2, Suppl. Alg. 8).

    m [S, N, c_m] and mask [S, N], sharded along N -> update of m.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.norm = LayerNorm(config.c_m, policy=policy)
        self.attention = GatedAttention(config.c_m, config.msa_heads, config.msa_head_dim, policy=policy, rngs=rngs)

    def __call__(self, m_SNC: jax.Array, mask_SN: jax.Array) -> jax.Array:
        m_NSC = self.norm(jnp.swapaxes(m_SNC, 0, 1))
        return jnp.swapaxes(self.attention(m_NSC, mask_SN.T), 0, 1)
