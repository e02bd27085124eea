"""The Evoformer block and stack.

Dimensions: S sequences, N residues (rows I and columns J of a pair), C channels, L blocks.
"""

from typing import Any

import jax
from flax import nnx
from jax import lax

from evotrain.config import ModelConfig
from evotrain.model.attention import MSAColumnAttention, MSARowAttentionWithPairBias
from evotrain.model.layers import Policy, dropout_mask
from evotrain.model.outer_product import OuterProductMean
from evotrain.model.transition import Transition
from evotrain.model.triangle import TriangleAttention, TriangleMultiplication
from evotrain.parallel import fsdp
from evotrain.parallel.context import shard, switch

REMAT_POLICIES = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class EvoformerBlock(nnx.Module):
    """One block (AlphaFold 2, Suppl. Alg. 6, lines 2-10).

    m [S, N, c_m] sharded along S and z [N, N, c_z] sharded along rows, whole masks [S, N] and [N, N] -> m, z.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        self.msa_dropout, self.pair_dropout = config.msa_dropout, config.pair_dropout
        self.row_attention = MSARowAttentionWithPairBias(config, **built)
        self.column_attention = MSAColumnAttention(config, **built)
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


class EvoformerStack(nnx.Module):
    """The blocks one after another (AlphaFold 2, Suppl. Alg. 6), arguments as for a block.

    They run under one scan, so that 48 blocks compile as fast as two. A block's parameters are gathered inside the
    scan, and `model.remat` says what is kept for the backward pass.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.config, self.policy = config, policy

        @nnx.split_rngs(splits=config.blocks)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked(rngs: nnx.Rngs) -> EvoformerBlock:
            return EvoformerBlock(config, policy=policy, rngs=rngs)

        self.blocks = stacked(rngs)

    def __call__(
        self, m: jax.Array, z: jax.Array, msa_mask: jax.Array, pair_mask: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        # One block's structure and whole shapes; the stacked parameters may be a device's part of them.
        one = nnx.eval_shape(lambda: EvoformerBlock(self.config, policy=self.policy, rngs=nnx.Rngs(0)))
        graphdef, whole = nnx.split(one, nnx.Param)

        def body(carry: tuple[jax.Array, jax.Array], layer: tuple[Any, jax.Array | None]) -> tuple[Any, None]:
            params, key = layer
            block = nnx.merge(graphdef, fsdp.gather(params, whole))
            return block(*carry, msa_mask, pair_mask, key), None

        if self.config.remat != "none":
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.config.remat], prevent_cse=False)
        keys = None if key is None else jax.random.split(key, self.config.blocks)
        (m, z), _ = lax.scan(body, (m, z), (nnx.state(self.blocks, nnx.Param), keys))
        return m, z
