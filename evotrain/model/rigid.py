"""Rigid motions of space: rotations with translations, and unit quaternions that stand for rotations.

Products with the 3 × 3 matrices are written as sums over one dimension, not as matrix products, which an accelerator
may round: a position would lose digits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rigid(NamedTuple):
    """Motions x -> R·x + t, or the frames that they make of the origin and the axes."""

    rotation: jax.Array  # [..., 3, 3]
    translation: jax.Array  # [..., 3]


def compose(outer: Rigid, inner: Rigid) -> Rigid:
    """First `inner`, then `outer`; leading dimensions are equal or 1."""
    columns = outer.rotation[..., :, :, None] * inner.rotation[..., None, :, :]
    return Rigid(jnp.sum(columns, axis=-2), apply(outer, inner.translation))


def apply(rigid: Rigid, points: jax.Array) -> jax.Array:
    """Where the motions take points [..., 3]; leading dimensions are equal or 1."""
    return jnp.sum(rigid.rotation * points[..., None, :], axis=-1) + rigid.translation


def invert_apply(rigid: Rigid, points: jax.Array) -> jax.Array:
    """The coordinates in the frames of points [..., 3]; leading dimensions are equal or 1."""
    return jnp.sum(rigid.rotation * (points - rigid.translation)[..., :, None], axis=-2)


def expand(rigid: Rigid) -> Rigid:
    """With a last leading dimension of 1, for several points or frames to each motion."""
    return Rigid(rigid.rotation[..., None, :, :], rigid.translation[..., None, :])


def from_flat12(flat: jax.Array) -> Rigid:
    """From [..., 12]: the rotation by rows, then the translation."""
    return Rigid(flat[..., :9].reshape(*flat.shape[:-1], 3, 3), flat[..., 9:])


def rotation_about_x(sine: jax.Array, cosine: jax.Array) -> jax.Array:
    """Rotations [..., 3, 3] that turn y towards z (AlphaFold 2, Suppl. Alg. 25)."""
    zero, one = jnp.zeros_like(sine), jnp.ones_like(sine)
    rows = ((one, zero, zero), (zero, cosine, -sine), (zero, sine, cosine))
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_from_quaternion(quaternion: jax.Array) -> jax.Array:
    """The rotations [..., 3, 3] of unit quaternions [..., 4], real part first."""
    w, x, y, z = jnp.moveaxis(quaternion, -1, 0)
    rows = (
        (w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def turn_quaternion(quaternion: jax.Array, update: jax.Array) -> jax.Array:
    """Unit quaternions [..., 4], each turned within its own frame by 1 + `update` [..., 3] (imaginary parts).

    The product is never shorter than 1, so that normalising it is safe.
    """
    real, imaginary = quaternion[..., :1], quaternion[..., 1:]
    turned = quaternion + jnp.concatenate(
        [
            -jnp.sum(imaginary * update, axis=-1, keepdims=True),
            real * update + jnp.cross(imaginary, update),
        ],
        axis=-1,
    )
    return turned / jnp.linalg.norm(turned, axis=-1, keepdims=True)
