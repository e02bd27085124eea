"""The triangle updates of the pair representation.

Dimensions: I, J, K residues, C channels, H heads. An edge ij is row i, column j of z.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.model.attention import GatedAttention, PairBias
from evotrain.model.layers import Dense, LayerNorm, Policy
from evotrain.model.rows import map_rows
from evotrain.parallel.context import gather


class TriangleMultiplication(nnx.Module):
    """Updates each edge from the two other edges of its triangles (AlphaFold 2, Suppl. Alg. 11 and 12).

    Outgoing: from edges ik and jk; z [I, J, c_z] and mask [I, J] sharded along rows. Incoming: from edges ki and kj,
    with the roles of left and right as in DeepMind's code; z and mask sharded along columns. -> update of z.
    """

    def __init__(self, config: ModelConfig, *, outgoing: bool, policy: Policy, rngs: nnx.Rngs):
        c_z, c = (config.c_z,), (config.c_triangle,)
        self.outgoing = outgoing
        self.norm_in = LayerNorm(config.c_z, policy=policy)
        self.left = Dense(c_z, c, policy=policy, rngs=rngs)
        self.right = Dense(c_z, c, policy=policy, rngs=rngs)
        self.left_gate = Dense(c_z, c, kind="gate", policy=policy, rngs=rngs)
        self.right_gate = Dense(c_z, c, kind="gate", policy=policy, rngs=rngs)
        self.norm_out = LayerNorm(config.c_triangle, policy=policy)
        self.output = Dense(c, c_z, kind="final", policy=policy, rngs=rngs)
        self.gate = Dense(c_z, c_z, kind="gate", policy=policy, rngs=rngs)

    def __call__(self, z_IJC: jax.Array, mask_IJ: jax.Array) -> jax.Array:
        # The intermediates of a row are a few arrays of its own size.
        numbers = 4 * z_IJC[0].size
        left, right, gate = map_rows(self._edges, (z_IJC, mask_IJ), numbers=numbers)
        if self.outgoing:
            product_IJC = jnp.einsum("ikc,jkc->ijc", left, gather(right, 0))
        else:
            product_IJC = jnp.einsum("kjc,kic->ijc", left, gather(right, 1))
        return map_rows(self._update, (product_IJC, gate), numbers=numbers)

    def _edges(self, rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """z and mask -> the two edges of the triangles, and the gate of the update."""
        z_IJC, mask_IJ = rows
        z_IJC = self.norm_in(z_IJC)
        mask = mask_IJ[..., None].astype(z_IJC.dtype)
        left = mask * self.left(z_IJC) * jax.nn.sigmoid(self.left_gate(z_IJC))
        right = mask * self.right(z_IJC) * jax.nn.sigmoid(self.right_gate(z_IJC))
        return left, right, jax.nn.sigmoid(self.gate(z_IJC))

    def _update(self, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        """The sums over triangles and the gate -> the update of z."""
        product_IJC, gate_IJC = rows
        return self.output(self.norm_out(product_IJC)) * gate_IJC


class TriangleAttention(nnx.Module):
    """Attention between the edges that share a node, biased by the third edge (AlphaFold 2, Suppl. Alg. 13 and 14).

    Around the starting node: edges of a row, z [I, J, c_z] and mask [I, J] sharded along rows. Around the ending node:
    edges of a column, bias from the transposed z; sharded along columns. -> update of z.
    """

    def __init__(self, config: ModelConfig, *, starting: bool, policy: Policy, rngs: nnx.Rngs):
        self.starting = starting
        self.norm = LayerNorm(config.c_z, policy=policy)
        self.pair_bias = PairBias(config.c_z, config.pair_heads, policy=policy, rngs=rngs)
        self.attention = GatedAttention(config.c_z, config.pair_heads, config.pair_head_dim, policy=policy, rngs=rngs)

    def __call__(self, z_IJC: jax.Array, mask_IJ: jax.Array) -> jax.Array:
        if not self.starting:
            z_IJC, mask_IJ = jnp.swapaxes(z_IJC, 0, 1), mask_IJ.T
        z_IJC = self.norm(z_IJC)
        update = self.attention(z_IJC, mask_IJ, self.pair_bias(z_IJC))
        return update if self.starting else jnp.swapaxes(update, 0, 1)
