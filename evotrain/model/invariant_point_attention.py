"""Attention between residues that sees points in space, and neither where the chain lies nor how it is turned.

Dimensions: N residues (I queries, J keys), C channels, H heads, D channels of a head, P points, X coordinates.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from evotrain.config import ModelConfig
from evotrain.model.attention import MASKED_LOGIT
from evotrain.model.layers import Dense, Policy
from evotrain.model.rigid import Rigid, apply, expand, invert_apply

LENGTH_EPSILON = 1e-8  # in the root of a squared length, for its gradient at zero
INITIAL_POINT_WEIGHT = math.log(math.e - 1.0)  # whose softplus is 1


class InvariantPointAttention(nnx.Module):
    """Attention by scalars, pair representation and distances of points (AlphaFold 2, Suppl. Alg. 22).

    Residues carry their points along in their backbone frames. single [N, c_s], pair [N, N, c_z] normalised, frames
    [N] with translations in units of 10 Å, mask [N] -> update of single. A residue that is masked attends to all, so
    that its row is finite; nothing valid attends to it.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        sizes = config.structure
        heads, dim, c_s = sizes.heads, sizes.scalar_dim, (sizes.c_s,)
        built = {"policy": policy, "rngs": rngs}
        self.heads, self.scalar_dim = heads, dim
        self.num_query_points, self.num_value_points = sizes.query_points, sizes.value_points
        key_value_points = sizes.query_points + sizes.value_points
        # Flat outputs: heads × channels, or coordinates × heads × points.
        self.query = Dense(c_s, (heads * dim,), **built)
        self.key_value = Dense(c_s, (heads * 2 * dim,), **built)
        self.query_points = Dense(c_s, (3 * heads * sizes.query_points,), **built)
        self.key_value_points = Dense(c_s, (3 * heads * key_value_points,), **built)
        self.pair_bias = Dense((config.c_z,), (heads,), **built)
        self.point_weights = nnx.Param(jnp.full(heads, INITIAL_POINT_WEIGHT, jnp.float32))
        features = heads * (dim + 4 * sizes.value_points + config.c_z)
        self.output = Dense((features,), c_s, kind="final", **built)

    def __call__(self, single_NC: jax.Array, pair_IJC: jax.Array, frames_N: Rigid, mask_N: jax.Array) -> jax.Array:
        residues = single_NC.shape[0]
        query_NHD = self.query(single_NC).reshape(residues, self.heads, self.scalar_dim)
        key_value = self.key_value(single_NC).reshape(residues, self.heads, 2 * self.scalar_dim)
        key_NHD, value_NHD = jnp.split(key_value, 2, axis=-1)
        query_points_NHPX = self._points(self.query_points(single_NC), frames_N)
        key_value_points = self._points(self.key_value_points(single_NC), frames_N)
        key_points_NHPX, value_points_NHPX = jnp.split(key_value_points, [self.num_query_points], axis=2)

        logits_HIJ = (
            self._scalar_logits(query_NHD, key_NHD)
            + self._point_logits(query_points_NHPX, key_points_NHPX)
            + math.sqrt(1 / 3) * jnp.moveaxis(self.pair_bias(pair_IJC), -1, 0)
        )
        visible_IJ = (mask_N[None, :] > 0) | (mask_N[:, None] == 0)
        weights_HIJ = jax.nn.softmax(jnp.where(visible_IJ[None], logits_HIJ, MASKED_LOGIT), axis=-1)

        scalars_IHD = jnp.einsum("hij,jhd->ihd", weights_HIJ, value_NHD)
        # At full precision, also where products are rounded: these are positions.
        points_IHPX = jnp.einsum("hij,jhpx->ihpx", weights_HIJ, value_points_NHPX, precision=lax.Precision.HIGHEST)
        points_INX = invert_apply(expand(frames_N), points_IHPX.reshape(residues, -1, 3))
        lengths_IN = jnp.sqrt(LENGTH_EPSILON + jnp.sum(jnp.square(points_INX), axis=-1))
        pairs_IHC = jnp.einsum("hij,ijc->ihc", weights_HIJ, pair_IJC)
        found = (scalars_IHD, jnp.swapaxes(points_INX, 1, 2), lengths_IN, pairs_IHC)
        return self.output(jnp.concatenate([x.reshape(residues, -1) for x in found], axis=-1))

    def _points(self, flat: jax.Array, frames: Rigid) -> jax.Array:
        """Points [N, H, P, X] in space, from their coordinates [N, X·H·P] in the frames of their residues."""
        residues = flat.shape[0]
        local = jnp.swapaxes(flat.reshape(residues, 3, -1), 1, 2)
        return apply(expand(frames), local).reshape(residues, self.heads, -1, 3)

    # The three kinds of logits are scaled to a variance of 1/3 each, if queries and keys were standard normal: then a
    # scalar's product has variance 1, and half a point's squared distance one of 9/2.

    def _scalar_logits(self, query_IHD: jax.Array, key_JHD: jax.Array) -> jax.Array:
        return jnp.einsum("ihd,jhd->hij", query_IHD * math.sqrt(1 / (3 * self.scalar_dim)), key_JHD)

    def _point_logits(self, query_IHPX: jax.Array, key_JHPX: jax.Array) -> jax.Array:
        weights_H = jax.nn.softplus(self.point_weights[...].astype(query_IHPX.dtype))
        weights_H *= -0.5 * math.sqrt(1 / (3 * self.num_query_points * 9 / 2))

        def by_coordinate(points: jax.Array) -> jax.Array:
            return points.reshape(*points.shape[:2], -1).transpose(2, 1, 0)

        # Differences are squared, not products expanded: far from the origin those cancel and leave few digits.
        query_KHI, key_KHJ = by_coordinate(query_IHPX), by_coordinate(key_JHPX)
        squares_HIJ = jnp.sum(jnp.square(query_KHI[..., :, None] - key_KHJ[..., None, :]), axis=0)
        return weights_H[:, None, None] * squares_HIJ
