"""What only training examples undergo, and that what is random in an example is as random as it should be."""

from dataclasses import replace

import numpy as np
import pytest
from random_protein import random_protein

from evotrain.data.features.example import ExampleShape, example
from evotrain.data.protein import CA_ATOM, MASK

LENGTH = 37
AUGMENTED = ExampleShape(
    crop=16,
    msa_clusters=8,
    extra_msa=60,
    templates=3,
    passes=2,
    structure=True,
    mask_fraction=0.15,
    block_deletions=5,
    spatial_crop=1.0,
)
ONE_ROW = ExampleShape(crop=16, msa_clusters=1, mask_fraction=0.15)


def _example(protein, seed=0, max_rows=None, **changes):
    return example(protein, np.random.default_rng(seed), replace(AUGMENTED, **changes), max_rows=max_rows)


def _numbered(rows, length=LENGTH, templates=0):
    """A protein whose rows can be told apart by their two first residues."""
    protein = random_protein(rows, length, templates=templates)
    number = np.arange(rows)
    msa = np.concatenate([np.stack([number // 20, number % 20], 1), protein.msa[:, 2:]], 1)
    return replace(protein, msa=msa.astype(np.uint8))


def _rows_shown(features, one_pass=0):
    centres = features["true_msa"][one_pass][features["msa_mask"][one_pass, :, 0] > 0]
    extra = features["extra_msa"][one_pass][features["extra_msa_mask"][one_pass, :, 0] > 0]
    shown = np.concatenate([centres, extra])
    return (20 * shown[:, 0] + shown[:, 1]).tolist()


def test_evaluation_neither_deletes_blocks_nor_crops_in_space():
    protein = random_protein(60, LENGTH, templates=3)
    plain = replace(AUGMENTED, block_deletions=0, spatial_crop=0.0)
    found, expected = (
        example(protein, np.random.default_rng(0), shape, training=False) for shape in (AUGMENTED, plain)
    )
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)


def test_every_pass_deletes_blocks_of_its_own():
    features = _example(_numbered(60), crop=LENGTH, passes=4)
    passes = [_rows_shown(features, i) for i in range(4)]
    for rows in passes:
        assert rows[0] == 0
        assert len(set(rows)) == len(rows) < 60
    assert len({tuple(sorted(rows)) for rows in passes}) == 4


def test_every_pass_shows_a_sample_of_rows_of_its_own_with_the_query():
    protein = _numbered(60)
    changes = {"crop": LENGTH, "block_deletions": 0, "passes": 3}
    features = _example(protein, max_rows=20, **changes)
    passes = [_rows_shown(features, i) for i in range(3)]
    assert [rows[0] for rows in passes] == [0, 0, 0]
    assert [len(set(rows)) for rows in passes] == [20, 20, 20]
    assert len({tuple(sorted(rows)) for rows in passes}) == 3
    whole, limited = (_example(protein, max_rows=most, **changes) for most in (None, 60))
    for name, x in whole.items():
        np.testing.assert_array_equal(limited[name], x, err_msg=name)
    assert _rows_shown(_example(protein, max_rows=1, **changes)) == [0]


def test_a_sample_of_rows_is_taken_of_those_that_block_deletion_leaves():
    changes = {"crop": LENGTH, "block_deletions": 2, "passes": 4}
    sampled, whole = (_example(_numbered(60), max_rows=most, **changes) for most in (20, None))
    for i in range(4):
        left = _rows_shown(whole, i)
        assert 20 < len(left) < 60
        assert _rows_shown(sampled, i) == left[:20]


def test_a_spatial_crop_cuts_everything_alike():
    protein = random_protein(60, LENGTH, templates=2)
    features = _example(protein, block_deletions=0)
    crop = features["residue_index"]
    assert (np.diff(crop) > 0).all()
    assert (np.diff(crop) > 1).any()
    np.testing.assert_array_equal(features["aatype"], protein.msa[0, crop])
    np.testing.assert_array_equal(features["true_msa"][:, 0], protein.msa[[0, 0]][:, crop])
    np.testing.assert_array_equal(features["all_atom_positions"], protein.atom_positions[crop])
    assert features["seq_mask"].all()
    assert {tuple(row) for row in features["true_msa"][0].tolist()} <= set(map(tuple, protein.msa[:, crop].tolist()))


def test_a_template_has_no_torsion_angles_across_a_break_of_the_crop():
    protein = random_protein(9, LENGTH, templates=1)
    features = next(x for x in (_example(protein, seed) for seed in range(99)) if x["template_mask"].any())
    omega, phi, psi = np.moveaxis(features["template_angle_feat"][0, :, -7:-4], -1, 0)
    follows = np.diff(features["residue_index"], prepend=-9) == 1
    np.testing.assert_array_equal(omega > 0, follows)
    np.testing.assert_array_equal(phi > 0, follows)
    assert psi.all()


def test_a_protein_without_coordinates_is_cropped_along_the_chain():
    protein = random_protein(9, LENGTH)
    protein = replace(protein, atom_mask=np.zeros_like(protein.atom_mask))
    np.testing.assert_array_equal(np.diff(_example(protein)["residue_index"]), 1)
    short = _example(random_protein(9, 12))
    np.testing.assert_array_equal(short["residue_index"][:12], np.arange(12))


def _shares(values, count):
    return np.bincount(values, minlength=count) / len(values)


def test_crops_begin_anywhere_alike():
    protein, shape = random_protein(1, 19), ONE_ROW
    rng = np.random.default_rng(0)
    starts = [int(example(protein, rng, shape)["residue_index"][0]) for _ in range(8000)]
    np.testing.assert_allclose(_shares(starts, 4), 0.25, atol=0.01)


def test_spatial_crops_have_their_share_and_any_observed_residue_as_centre():
    protein = random_protein(1, 8)
    mask = protein.atom_mask.copy()
    mask[:, CA_ATOM] = np.arange(8) % 2
    protein = replace(protein, atom_mask=mask)
    shape = replace(ONE_ROW, crop=1, spatial_crop=0.4)
    rng = np.random.default_rng(0)
    centres = [int(example(protein, rng, shape)["residue_index"][0]) for _ in range(8000)]
    shares = _shares(centres, 8)
    np.testing.assert_allclose(shares[::2], 0.6 / 8, atol=0.01)
    np.testing.assert_allclose(shares[1::2], 0.6 / 8 + 0.4 / 4, atol=0.01)


def test_fifteen_percent_are_hidden_seventy_percent_of_them_behind_the_mask():
    shape = ExampleShape(crop=300, msa_clusters=500, passes=6, mask_fraction=0.15)
    features = example(random_protein(600, 300), np.random.default_rng(0), shape)
    hidden = features["bert_mask"] > 0
    assert hidden.mean() == pytest.approx(0.15, rel=0.01)
    assert features["msa_feat"][hidden, MASK].mean() == pytest.approx(0.7, rel=0.01)
    assert not features["msa_feat"][~hidden, MASK].any()
