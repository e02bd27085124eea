import numpy as np
import pytest

from evotrain.data.generated.backbone import compact_backbone


def distances(positions):
    return np.sqrt(((positions[:, None] - positions[None]) ** 2).sum(-1))


def folds(count, length):
    return [compact_backbone(np.random.default_rng(index), length) for index in range(count)]


def test_same_generator_gives_the_same_fold():
    first, second = folds(2, 64)
    again = compact_backbone(np.random.default_rng(0), 64)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("length", [1, 2, 3, 5, 20])
def test_short_chains_are_finite(length):
    ca, cb = compact_backbone(np.random.default_rng(0), length)
    assert ca.shape == cb.shape == (length, 3)
    assert ca.dtype == cb.dtype == np.float32
    assert np.isfinite([ca, cb]).all()


@pytest.mark.parametrize("length", [64, 128])
def test_geometry_is_that_of_a_protein(length):
    for ca, cb in folds(10, length):
        np.testing.assert_allclose(np.linalg.norm(np.diff(ca, axis=0), axis=-1), 3.8, atol=0.1)
        np.testing.assert_allclose(np.linalg.norm(cb - ca, axis=-1), 1.53, atol=1e-3)
        assert np.triu(distances(ca) < 3.6, 3).sum() == 0
        radius = np.sqrt(((ca - ca.mean(0)) ** 2).sum(-1).mean())
        # Globular proteins have a radius of gyration of about 2.2 · N^0.38 Å.
        assert 0.8 < radius / (2.2 * length**0.38) < 1.3


def test_folds_have_long_range_contacts_that_separation_does_not_predict():
    maps = np.stack([distances(cb) < 8 for _, cb in folds(60, 64)])
    i, j = np.triu_indices(64, 24)
    contacts = maps[:, i, j]
    assert 0.5 < contacts.sum(1).mean() / 64 < 1.5
    # The best guess from other folds is the pairs that touch most often in them.
    prior = contacts[:30].mean(0)
    guess = contacts[30:, np.argsort(-prior, kind="stable")[:64]]
    assert guess.mean() < 0.2


def test_helices_are_right_handed_and_orientations_vary():
    # Where Cα i to i+3 lie within 5.5 Å the chain is helical; its dihedral angle is near +50° in a right-handed helix.
    angles = []
    for ca, _ in folds(20, 64):
        first, second, third = (np.diff(ca, axis=0)[k : len(ca) - 3 + k] for k in range(3))
        helical = np.linalg.norm(ca[3:] - ca[:-3], axis=-1) < 5.2
        sine = (first * np.cross(second, third)).sum(-1) * np.linalg.norm(second, axis=-1)
        cosine = (np.cross(first, second) * np.cross(second, third)).sum(-1)
        angles.extend(np.rad2deg(np.arctan2(sine, cosine))[helical])
    assert len(angles) > 50
    assert abs(np.median(angles) - 50) < 10
