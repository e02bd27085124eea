"""Distances and local coordinates of many points at once.

Components are kept apart, so that every array of pairs is two-dimensional: a trailing dimension of 3 would be padded to
the width of a vector register, and a product over it would round as matrix products do on an accelerator.

Dimensions: F frames, P points.
"""

import jax
import jax.numpy as jnp

from evotrain.model.rigid import Rigid


def distances(rows: jax.Array, columns: jax.Array, epsilon: float) -> jax.Array:
    """The distances [F, P] of points [F, 3] to points [P, 3]; `epsilon`, inside the root, keeps its gradient finite."""
    return jnp.sqrt(epsilon + sum(jnp.square(rows[:, None, i] - columns[None, :, i]) for i in range(3)))


def squared_errors(predicted: Rigid, target: Rigid, predicted_points: jax.Array, target_points: jax.Array) -> jax.Array:
    """How far points [P, 3] are off, squared [F, P], when each frame [F] of the prediction is laid on the target's."""
    pairs = zip(_in_frames(predicted, predicted_points), _in_frames(target, target_points), strict=True)
    return sum(jnp.square(mine - theirs) for mine, theirs in pairs)


def _in_frames(frames: Rigid, points: jax.Array) -> list[jax.Array]:
    """The three coordinates, each [F, P], of points [P, 3] in the frames [F]."""
    offsets = [points[None, :, i] - frames.translation[:, None, i] for i in range(3)]
    return [sum(frames.rotation[:, None, i, j] * offsets[i] for i in range(3)) for j in range(3)]
