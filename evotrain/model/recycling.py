"""The recycling embedding: what one pass over an example hands to the next.

Dimensions: S sequences, N residues (rows I and columns J of a pair), C channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.data.protein import CA_ATOM, CB_ATOM, GLYCINE
from evotrain.model.distances import binned_distances
from evotrain.model.layers import Dense, LayerNorm, Policy
from evotrain.parallel.context import on_first_shard, shard

DISTANCE_BINS = 15
FIRST_START, LAST_START = 3.25, 20.75  # Å


class Recycled(NamedTuple):
    """What a pass starts from; zeros before the first."""

    m_first: jax.Array  # [N, c_m], the row of the query in the MSA representation, whole
    z: jax.Array  # [I, J, c_z], sharded along rows
    positions: jax.Array  # [N, 37, 3] in Å, whole


class RecyclingEmbedding(nnx.Module):
    """Adds what the previous pass found to the embeddings (AlphaFold 2, Suppl. Alg. 32).

    m [S, N, c_m] sharded along S, z [N, N, c_z] sharded along rows, recycled, whole aatype [N] -> m, z. The first row
    of m changes, on the shard that holds it. Positions give no gradient.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.norm_m = LayerNorm(config.c_m, policy=policy)
        self.norm_z = LayerNorm(config.c_z, policy=policy)
        self.distances = Dense((DISTANCE_BINS,), (config.c_z,), policy=policy, rngs=rngs)

    def __call__(
        self, m: jax.Array, z: jax.Array, recycled: Recycled, aatype_N: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        m = m.at[0].add(on_first_shard(self.norm_m(recycled.m_first)))
        beta_N3 = pseudo_beta(recycled.positions, aatype_N)
        bins = {"first": FIRST_START, "last": LAST_START, "bins": DISTANCE_BINS, "dtype": z.dtype}
        distances_IJB = binned_distances(shard(beta_N3, 0), beta_N3, **bins)
        return m, z + self.distances(distances_IJB) + self.norm_z(recycled.z)


def pseudo_beta(positions_NA3: jax.Array, aatype_N: jax.Array) -> jax.Array:
    """The Cβ position [N, 3] of each residue, of glycine that of Cα, from positions [N, 37, 3]."""
    return jnp.where((aatype_N == GLYCINE)[:, None], positions_NA3[:, CA_ATOM], positions_NA3[:, CB_ATOM])
