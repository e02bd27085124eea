"""The outer product mean, by which the MSA informs the pair representation."""

import jax
import jax.numpy as jnp
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.model.layers import Dense, LayerNorm, Policy
from evotrain.model.rows import map_rows
from evotrain.parallel.context import gather, shard

EPSILON = 1e-3


class OuterProductMean(nnx.Module):
    """The mean over sequences of outer products of two columns (AlphaFold 2, Suppl. Alg. 10).

    m [S, N, c_m] sharded along N, mask [S, N] whole -> update of z [N, N, c_z], sharded along its rows. As in
    DeepMind's code the division by the number of sequences follows the output projection, and so divides its bias.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        c, self.chunk_rows = config.c_outer, policy.chunk_rows
        self.norm = LayerNorm(config.c_m, policy=policy)
        self.left = Dense((config.c_m,), (c,), policy=policy, rngs=rngs)
        self.right = Dense((config.c_m,), (c,), policy=policy, rngs=rngs)
        self.output = Dense((c, c), (config.c_z,), kind="final", policy=policy, rngs=rngs)

    def __call__(self, m_SIC: jax.Array, mask_SJ: jax.Array) -> jax.Array:
        mask_SI = shard(mask_SJ, 1)
        m_SIC = self.norm(m_SIC)
        left_SIC = self.left(m_SIC) * mask_SI[..., None].astype(m_SIC.dtype)
        right_SJD = gather(self.right(m_SIC) * mask_SI[..., None].astype(m_SIC.dtype), 1)

        def sum_products(left_ISC: jax.Array) -> jax.Array:
            return self.output(jnp.einsum("isc,sjd->ijcd", left_ISC, right_SJD))

        products = right_SJD[0].size * left_SIC.shape[-1]
        left_ISC = jnp.swapaxes(left_SIC, 0, 1)
        update_IJC = map_rows(sum_products, left_ISC, numbers=products, chunk=self.chunk_rows)
        sequences_IJ = jnp.einsum("si,sj->ij", mask_SI, mask_SJ)
        wide = jnp.promote_types(update_IJC.dtype, jnp.float32)
        return (update_IJC.astype(wide) / (EPSILON + sequences_IJ)[..., None]).astype(update_IJC.dtype)
