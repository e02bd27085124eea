"""The Evoformer block and stack.

Dimensions: S sequences, N residues (rows I and columns J of a pair), C channels.
"""

import jax
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.model.attention import MSAColumnAttention, MSARowAttentionWithPairBias
from evotrain.model.layers import Policy, dropout_mask
from evotrain.model.outer_product import OuterProductMean
from evotrain.model.stack import Stack
from evotrain.model.transition import Transition
from evotrain.model.triangle import TriangleAttention, TriangleMultiplication
from evotrain.parallel.context import shard, switch


class EvoformerBlock(nnx.Module):
    """One block (AlphaFold 2, Suppl. Alg. 6, lines 2-10).

    m [S, N, c_m] sharded along S and z [N, N, c_z] sharded along rows, whole masks [S, N] and [N, N] -> m, z.
    """

    column_attention_class: type[nnx.Module] = MSAColumnAttention

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        self.msa_dropout, self.pair_dropout = config.msa_dropout, config.pair_dropout
        self.row_attention = MSARowAttentionWithPairBias(config, **built)
        self.column_attention = self.column_attention_class(config, **built)
        self.msa_transition = Transition(config.c_m, config.transition_factor, **built)
        self.outer_product_mean = OuterProductMean(config, **built)
        self.triangle_outgoing = TriangleMultiplication(config, outgoing=True, **built)
        self.triangle_incoming = TriangleMultiplication(config, outgoing=False, **built)
        self.attention_starting = TriangleAttention(config, starting=True, **built)
        self.attention_ending = TriangleAttention(config, starting=False, **built)
        self.pair_transition = Transition(config.c_z, config.transition_factor, **built)

    def __call__(
        self, m: jax.Array, z: jax.Array, msa_mask: jax.Array, pair_mask: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))

        # Dropout is shared: by all sequences or all rows, for the ending node by all columns.
        def drop(i: int, rate: float, shape: tuple[int, ...]) -> jax.Array | float:
            return dropout_mask(keys[i], rate, shape, m.dtype)

        residues = pair_mask.shape[0]
        by_sequence = drop(0, self.msa_dropout, (1, residues, m.shape[-1]))
        by_row = [drop(i, self.pair_dropout, (1, residues, z.shape[-1])) for i in (1, 2, 3)]
        by_column = drop(4, self.pair_dropout, (residues, 1, z.shape[-1]))
        by_local_row = by_row[1] if isinstance(by_row[1], float) else shard(by_row[1], 1)

        m += by_sequence * self.row_attention(m, z, shard(msa_mask, 0))
        m = switch(m, 0, 1)
        m += self.column_attention(m, shard(msa_mask, 1))
        m += self.msa_transition(m)
        z += self.outer_product_mean(m, msa_mask)
        m = switch(m, 1, 0)

        rows, columns = shard(pair_mask, 0), shard(pair_mask, 1)
        z += by_row[0] * self.triangle_outgoing(z, rows)
        z = switch(z, 0, 1)
        z += by_local_row * self.triangle_incoming(z, columns)
        z = switch(z, 1, 0)
        z += by_row[2] * self.attention_starting(z, rows)
        z = switch(z, 0, 1)
        z += by_column * self.attention_ending(z, columns)
        z = switch(z, 1, 0)
        z += self.pair_transition(z)
        return m, z


class EvoformerStack(Stack):
    """The blocks one after another (AlphaFold 2, Suppl. Alg. 6), arguments as for a block."""

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        super().__init__(EvoformerBlock, config, config.blocks, policy=policy, rngs=rngs)

    def __call__(
        self, m: jax.Array, z: jax.Array, msa_mask: jax.Array, pair_mask: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        return self.scan((m, z), (msa_mask, pair_mask), key)
