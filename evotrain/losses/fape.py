"""Frame-aligned point error (AlphaFold 2, Suppl. Alg. 28).

Every array is whole and in Å; a device that shares the example with others takes its share of the frames.

Dimensions: L layers of the structure module, N residues, F frames, P points.
"""

import jax
import jax.numpy as jnp

from evotrain.losses.geometry import squared_errors
from evotrain.model.rigid import Rigid
from evotrain.parallel.context import shard, sum_shards

CLAMP = 10.0  # Å
LENGTH_SCALE = 10.0  # Å, so that a clamped error is 1
EPSILON = 1e-4  # Å² in the root, and in the denominator


def frame_aligned_point_error(
    predicted_frames: Rigid,
    target_frames: Rigid,
    frame_mask: jax.Array,
    predicted_points: jax.Array,
    target_points: jax.Array,
    point_mask: jax.Array,
    clamped: jax.Array | float = 1.0,
) -> jax.Array:
    """The mean distance of points [P, 3] from their targets, seen from each of the frames [F], in units of 10 Å -> [].

    `clamped` is the share, 0 to 1, of errors clamped at 10 Å in the mixture with errors that are not.
    """
    predicted_frames, target_frames, frame_mask = (
        jax.tree.map(lambda x: shard(x, 0), whole) for whole in (predicted_frames, target_frames, frame_mask)
    )
    error_FP = jnp.sqrt(squared_errors(predicted_frames, target_frames, predicted_points, target_points) + EPSILON)
    error_FP = clamped * jnp.minimum(error_FP, CLAMP) + (1.0 - clamped) * error_FP
    total = sum_shards(jnp.sum(error_FP * frame_mask[:, None] * point_mask[None])) / LENGTH_SCALE
    frames, points = sum_shards(jnp.sum(frame_mask)), sum_shards(jnp.sum(shard(point_mask, 0)))
    return total / (EPSILON + frames * points)


def backbone_fape(predicted: Rigid, target: Rigid, mask: jax.Array, clamped: jax.Array | float) -> jax.Array:
    """The error of Cα atoms in backbone frames, mean over layers: predicted [L, N], target [N], mask [N] -> []."""

    def of_layer(layer: Rigid) -> jax.Array:
        return frame_aligned_point_error(layer, target, mask, layer.translation, target.translation, mask, clamped)

    return jnp.mean(jax.vmap(of_layer)(predicted))


def sidechain_fape(
    predicted_frames: Rigid,
    target_frames: Rigid,
    frame_mask: jax.Array,
    predicted_positions: jax.Array,
    target_positions: jax.Array,
    atom_mask: jax.Array,
) -> jax.Array:
    """The clamped error of all atoms in all frames: frames [N, 8], positions [N, 14, 3] -> [].

    The targets carry the names that `renaming` chose. Masks [N, 8] and [N, 14].
    """

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[2:])

    return frame_aligned_point_error(
        jax.tree.map(flat, predicted_frames),
        jax.tree.map(flat, target_frames),
        flat(frame_mask),
        flat(predicted_positions),
        flat(target_positions),
        flat(atom_mask),
    )
