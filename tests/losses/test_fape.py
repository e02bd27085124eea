"""The frame-aligned point error of structures that one can compute by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_compile import QUICK
from random_example import random_quaternions, rotation

from evotrain.losses import fape
from evotrain.model.rigid import Rigid

RNG = np.random.default_rng(0)
frame_aligned_point_error, backbone_fape = (
    jax.jit(function, compiler_options=QUICK) for function in (fape.frame_aligned_point_error, fape.backbone_fape)
)
FRAMES = Rigid(rotation(random_quaternions(RNG, (4,))).astype(np.float32), RNG.normal(size=(4, 3)).astype(np.float32))
POINTS = RNG.normal(size=(6, 3)).astype(np.float32)
ALL_FRAMES, ALL_POINTS = np.ones(4, np.float32), np.ones(6, np.float32)
NOTHING = np.sqrt(fape.EPSILON) / 10.0  # the root keeps a gradient finite, and so no error is quite zero


def error(points: np.ndarray, clamped: float = 1.0, mask: np.ndarray = ALL_POINTS) -> float:
    return float(frame_aligned_point_error(FRAMES, FRAMES, ALL_FRAMES, points, POINTS, mask, clamped))


def test_a_perfect_prediction_has_no_error():
    assert error(POINTS) == pytest.approx(NOTHING, rel=1e-2)


@pytest.mark.parametrize(("far", "clamped", "expected"), [(5, 1, 0.5), (30, 1, 1.0), (30, 0, 3.0), (30, 0.5, 2.0)])
def test_errors_are_in_units_of_ten_angstroms_and_clamped_there(far: float, clamped: float, expected: float):
    # Seen from any frame, one point of the six is so many Å away from where it should be.
    moved = POINTS + np.array([far, 0, 0], np.float32) * (np.arange(6) == 2)[:, None]
    assert error(moved, clamped) == pytest.approx((expected + 5 * NOTHING) / 6, rel=1e-3)
    assert error(moved, clamped, (np.arange(6) != 2).astype(np.float32)) == pytest.approx(NOTHING, rel=1e-2)


def test_a_clamped_error_pulls_no_longer():
    def loss(points: jax.Array) -> jax.Array:
        return fape.frame_aligned_point_error(FRAMES, FRAMES, ALL_FRAMES, points, POINTS, ALL_POINTS)

    pull = jax.jit(jax.grad(loss), compiler_options=QUICK)
    assert not np.any(pull(POINTS + np.float32(40.0)))
    assert np.all(pull(POINTS + np.float32(1.0)))


def test_a_mirror_image_is_an_error():
    mirror = np.array([-1.0, 1, 1], np.float32)
    frames = FRAMES._replace(translation=FRAMES.translation * mirror)  # still right-handed
    found = frame_aligned_point_error(frames, FRAMES, ALL_FRAMES, POINTS * mirror, POINTS, ALL_POINTS)
    assert found > 0.05


def test_the_backbone_error_is_the_mean_over_layers():
    shifts = np.array([0.0, 4.0], np.float32)
    layers = Rigid(
        np.stack([FRAMES.rotation] * 2),
        np.stack([FRAMES.translation + shift * ALL_FRAMES[:, None] for shift in shifts]),
    )
    mask = np.array([1, 1, 0, 1], np.float32)
    assert float(backbone_fape(layers, FRAMES, mask, jnp.float32(1.0))) == pytest.approx(NOTHING, rel=1e-2)
    turned = layers._replace(rotation=np.stack([FRAMES.rotation, np.roll(FRAMES.rotation, 1, axis=0)]))
    only = [
        float(backbone_fape(Rigid(turned.rotation[i : i + 1], turned.translation[i : i + 1]), FRAMES, mask, 1.0))
        for i in range(2)
    ]
    assert only[1] > only[0]
    assert float(backbone_fape(turned, FRAMES, mask, 1.0)) == pytest.approx(sum(only) / 2, rel=1e-5)
