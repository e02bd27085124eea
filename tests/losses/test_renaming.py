"""Which of two names an atom of a symmetric side chain gets."""

import numpy as np
import pytest
from random_example import LENGTH, SEQUENCE, narrow, random_example

from evotrain.losses.renaming import SYMMETRIC, renamed_target
from evotrain.residues import ATOM14_IS_AMBIGUOUS

SYMMETRIC_RESIDUES = [SEQUENCE.index(letter) for letter in "DEFY"]


@pytest.fixture(scope="module")
def example() -> dict:
    found = narrow(random_example())
    return found | {"atom14_gt_exists": np.ones((LENGTH, 14), np.float32)}


def test_no_other_atoms_are_ambiguous():
    others = np.delete(ATOM14_IS_AMBIGUOUS, SYMMETRIC, axis=1)
    assert not others.any()
    assert len(SYMMETRIC) == 4


@pytest.mark.parametrize("swapped", [[], *([i] for i in SYMMETRIC_RESIDUES), SYMMETRIC_RESIDUES])
def test_the_target_takes_the_names_of_the_prediction(example: dict, swapped: list[int]):
    alternative = np.isin(np.arange(LENGTH), swapped)
    positions = np.where(alternative[:, None, None], example["atom14_alt_gt_positions"], example["atom14_gt_positions"])
    renamed = renamed_target(positions, example)
    np.testing.assert_array_equal(renamed.positions, positions)
    frames = np.where(
        alternative[:, None, None], example["rigidgroups_alt_gt_frames"], example["rigidgroups_gt_frames"]
    )
    np.testing.assert_array_equal(renamed.frames.rotation.reshape(LENGTH, 8, 9), frames[..., :9])
    np.testing.assert_array_equal(renamed.frames.translation, frames[..., 9:])


def test_an_atom_that_was_not_observed_keeps_its_mask_with_its_name(example: dict):
    phenylalanine, first, second = SEQUENCE.index("F"), *SYMMETRIC[:2]
    exists = example["atom14_gt_exists"].copy()
    exists[phenylalanine, first] = 0.0
    alternative = exists.copy()
    alternative[phenylalanine, [first, second]] = 1.0, 0.0
    hidden = example | {"atom14_gt_exists": exists, "atom14_alt_gt_exists": alternative}
    renamed = renamed_target(example["atom14_alt_gt_positions"], hidden)
    np.testing.assert_array_equal(renamed.exists[phenylalanine], alternative[phenylalanine])
    kept = renamed_target(example["atom14_gt_positions"], hidden)
    np.testing.assert_array_equal(kept.exists, exists)
