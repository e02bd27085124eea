"""The torsion angle losses of angles that one can compute by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from evotrain.data.protein import RESIDUES
from evotrain.losses.torsion import angle_norm_loss, chi_loss

PHENYLALANINE, LYSINE = RESIDUES.index("F"), RESIDUES.index("K")
CHI_2 = np.array([[0, 1, 0, 0]], np.float32)


def loss(aatype: int, predicted: float, observed: float) -> float:
    """Of one χ2, angles in degrees."""
    angles = np.zeros((1, 1, 7, 2), np.float32)
    angles[0, 0, 4] = np.sin(np.deg2rad(predicted)), np.cos(np.deg2rad(predicted))
    observed = np.deg2rad(np.full((1, 4), observed, np.float32))
    return float(chi_loss(jnp.asarray(angles), np.array([aatype]), observed, CHI_2))


@pytest.mark.parametrize(("predicted", "observed", "chord"), [(10, 10, 0), (60, 0, 1), (-170, 130, 1), (180, 0, 4)])
def test_the_loss_is_the_squared_chord(predicted: float, observed: float, chord: float):
    assert loss(LYSINE, predicted, observed) == pytest.approx(chord, abs=1e-5)


def test_half_a_turn_of_a_symmetric_ring_is_no_error():
    assert loss(PHENYLALANINE, 180, 0) == pytest.approx(0, abs=1e-5)
    assert loss(PHENYLALANINE, 120, 0) == pytest.approx(1, abs=1e-5)


def test_only_angles_that_were_observed_count():
    angles = np.random.default_rng(0).normal(size=(3, 1, 7, 2)).astype(np.float32)
    assert float(chi_loss(angles, np.array([LYSINE]), np.zeros((1, 4), np.float32), 0 * CHI_2)) == 0


def test_vectors_should_have_unit_length():
    vectors = np.zeros((2, 3, 7, 2), np.float32)
    vectors[..., 0] = 3.0
    mask = np.array([0, 1, 1], np.float32)
    vectors[:, 0] = 100.0
    assert float(angle_norm_loss(vectors, mask)) == pytest.approx(2.0, rel=1e-5)
