"""lDDT-Cα and the labels of the confidence heads, by hand."""

import numpy as np
import pytest

from evotrain.losses.confidence import aligned_error_loss, lddt_ca, plddt_loss, resolved_loss
from evotrain.model.rigid import Rigid

# On a line in Å, the last more than 15 Å away from all others.
TARGET = np.array([[0.0, 0, 0], [4, 0, 0], [8, 0, 0], [40, 0, 0]], np.float32)
ALL = np.ones(4, np.float32)


def certain(bins: list[int], count: int) -> np.ndarray:
    return 50.0 * np.eye(count, dtype=np.float32)[bins]


@pytest.mark.parametrize(("shift", "kept"), [(0.4, 1.0), (0.6, 0.75), (1.5, 0.5), (3.0, 0.25), (5.0, 0.0)])
def test_lddt_is_the_share_of_distances_that_are_kept(shift: float, kept: float):
    predicted = TARGET + np.array([-shift, 0, 0], np.float32) * (np.arange(4) == 0)[:, None]
    # Both distances of the first residue change, and one of the two of each of its neighbours.
    np.testing.assert_allclose(lddt_ca(predicted, TARGET, ALL), [kept, (1 + kept) / 2, (1 + kept) / 2, 1], atol=1e-6)


def test_lddt_ignores_what_was_not_observed():
    predicted = TARGET + 9.0 * np.random.default_rng(0).normal(size=3).astype(np.float32) * (np.arange(4) == 1)[:, None]
    found = lddt_ca(predicted, TARGET, (np.arange(4) != 1).astype(np.float32))
    np.testing.assert_allclose(np.asarray(found)[[0, 2, 3]], 1, atol=1e-6)


def test_the_label_is_the_bin_of_the_lddt():
    predicted = TARGET + np.array([-3.0, 0, 0], np.float32) * (np.arange(4) == 0)[:, None]
    # 0.25, 0.625, 0.625 and 1, the last in the last bin.
    assert plddt_loss(certain([12, 31, 31, 49], 50), predicted, TARGET, ALL) == pytest.approx(0, abs=1e-6)
    assert plddt_loss(certain([11, 31, 31, 49], 50), predicted, TARGET, ALL) == pytest.approx(50 / 4)


def test_atoms_that_a_residue_lacks_are_not_asked_for():
    glycine = np.array([7])
    observed = np.zeros((1, 37), np.float32)
    observed[0, [0, 1, 2]] = 1.0  # the oxygen, place 4, is missing
    logits = 30.0 * (2 * observed - 1)
    logits[0, 5:] = 99.0
    assert resolved_loss(logits, glycine, observed, np.ones(1, np.float32)) == pytest.approx(0, abs=1e-6)
    logits[0, 4] = 30.0
    assert resolved_loss(logits, glycine, observed, np.ones(1, np.float32)) == pytest.approx(30 / 4)


def test_the_label_of_the_aligned_error_is_its_bin():
    rotation = np.tile(np.eye(3, dtype=np.float32), (4, 1, 1))
    predicted = TARGET + np.array([0, 2.2, 0], np.float32) * (np.arange(4) == 1)[:, None]
    labels = np.zeros((4, 4), int)
    labels[1], labels[:, 1], labels[1, 1] = 5, 5, 0  # of 2 to 2.5 Å; only an error of 0 is in the first bin
    frames = Rigid(rotation, predicted), Rigid(rotation, TARGET)
    assert aligned_error_loss(certain(labels, 64), *frames, ALL) == pytest.approx(0, abs=1e-6)
    labels[1, 2] = 6
    assert aligned_error_loss(certain(labels, 64), *frames, ALL) == pytest.approx(50 / 16)
