"""Rigid motions agree with homogeneous matrices, and quaternions with the rotations of SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from evotrain.model.rigid import (
    Rigid,
    apply,
    compose,
    expand,
    from_flat12,
    invert_apply,
    rotation_about_x,
    rotation_from_quaternion,
    turn_quaternion,
)

RNG = np.random.default_rng(0)
FRAMES = 5


def random_rigid(*shape: int) -> Rigid:
    rotation = Rotation.random(int(np.prod(shape)), random_state=RNG).as_matrix().reshape(*shape, 3, 3)
    return Rigid(jnp.asarray(rotation, jnp.float32), jnp.asarray(RNG.normal(size=(*shape, 3)), jnp.float32))


def homogeneous(rigid: Rigid) -> np.ndarray:
    matrix = np.zeros((*rigid.translation.shape[:-1], 4, 4))
    matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = rigid.rotation, rigid.translation, 1.0
    return matrix


def scipy_quaternion(rotation: Rotation) -> np.ndarray:
    return np.roll(rotation.as_quat(), 1, axis=-1)  # its real part is last


def test_compose_is_the_matrix_product():
    outer, inner = random_rigid(FRAMES), random_rigid(FRAMES)
    np.testing.assert_allclose(homogeneous(compose(outer, inner)), homogeneous(outer) @ homogeneous(inner), atol=1e-6)


def test_many_frames_for_each_motion():
    outer, inner = random_rigid(FRAMES), random_rigid(FRAMES, 3)
    np.testing.assert_allclose(
        homogeneous(compose(expand(outer), inner)), homogeneous(outer)[:, None] @ homogeneous(inner), atol=1e-6
    )


def test_apply_and_its_inverse():
    rigid, points = random_rigid(FRAMES), jnp.asarray(RNG.normal(size=(FRAMES, 7, 3)), jnp.float32)
    there = apply(expand(rigid), points)
    expected = np.einsum("nxy,npy->npx", rigid.rotation, points) + rigid.translation[:, None]
    np.testing.assert_allclose(there, expected, atol=1e-6)
    np.testing.assert_allclose(invert_apply(expand(rigid), there), points, atol=1e-5)


def test_from_flat12():
    rigid = random_rigid(FRAMES, 2)
    flat = jnp.concatenate([rigid.rotation.reshape(FRAMES, 2, 9), rigid.translation], axis=-1)
    for a, b in zip(from_flat12(flat), rigid, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rotation_about_x():
    angle = RNG.uniform(-np.pi, np.pi, FRAMES)
    expected = Rotation.from_euler("x", angle[:, None]).as_matrix()
    np.testing.assert_allclose(rotation_about_x(jnp.sin(angle), jnp.cos(angle)), expected, atol=1e-6)


def test_rotation_from_quaternion():
    rotation = Rotation.random(FRAMES, random_state=RNG)
    ours = rotation_from_quaternion(jnp.asarray(scipy_quaternion(rotation)))
    np.testing.assert_allclose(ours, rotation.as_matrix(), atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 0.3, 30.0])
def test_turn_is_within_the_frame(size: float):
    rotation, update = Rotation.random(FRAMES, random_state=RNG), size * RNG.normal(size=(FRAMES, 3))
    turn = Rotation.from_quat(np.concatenate([update, np.ones((FRAMES, 1))], axis=-1))
    turned = turn_quaternion(jnp.asarray(scipy_quaternion(rotation)), jnp.asarray(update))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(rotation_from_quaternion(turned), (rotation * turn).as_matrix(), atol=2e-6)
