from dataclasses import replace

import numpy as np
import pytest
from random_protein import random_protein

from evotrain.compose import compose
from evotrain.data.features.example import ExampleShape, example, example_shape
from evotrain.data.protein import CA_ATOM, GLYCINE
from evotrain.data_config import MsaDirConfig

LENGTH = 37
SMALL = ExampleShape(crop=16, msa_clusters=8, mask_fraction=0.15)
WHOLE = ExampleShape(crop=16, msa_clusters=8, extra_msa=20, templates=3, passes=2, structure=True, mask_fraction=0.15)


def _example(protein, seed=0, shape=SMALL, **changes):
    return example(protein, np.random.default_rng(seed), replace(shape, **changes))


def _alone(n):
    return {
        "aatype": ((n,), "int32"),
        "residue_index": ((n,), "int32"),
        "seq_mask": ((n,), "float32"),
        "target_feat": ((n, 22), "float32"),
        "pseudo_beta": ((n, 3), "float32"),
        "pseudo_beta_mask": ((n,), "float32"),
    }


def _sampled(n, s, r):
    return {
        "msa_feat": ((r, s, n, 49), "float32"),
        "msa_mask": ((r, s, n), "float32"),
        "true_msa": ((r, s, n), "int32"),
        "bert_mask": ((r, s, n), "float32"),
    }


def _whole(n, e, t, r):
    extra = ("extra_has_deletion", "extra_deletion_value", "extra_msa_mask")
    return {
        "extra_msa": ((r, e, n), "int32"),
        **dict.fromkeys(extra, ((r, e, n), "float32")),
        "template_aatype": ((t, n), "int32"),
        "template_mask": ((t,), "float32"),
        "template_pseudo_beta": ((t, n, 3), "float32"),
        "template_pseudo_beta_mask": ((t, n), "float32"),
        "template_backbone_mask": ((t, n), "float32"),
        "template_angle_feat": ((t, n, 57), "float32"),
        "template_angle_mask": ((t, n), "float32"),
        "all_atom_positions": ((n, 37, 3), "float32"),
        "all_atom_mask": ((n, 37), "float32"),
        "atom14_gt_positions": ((n, 14, 3), "float32"),
        "atom14_gt_exists": ((n, 14), "float32"),
        "atom14_alt_gt_positions": ((n, 14, 3), "float32"),
        "atom14_alt_gt_exists": ((n, 14), "float32"),
        "rigidgroups_gt_frames": ((n, 8, 12), "float32"),
        "rigidgroups_alt_gt_frames": ((n, 8, 12), "float32"),
        "rigidgroups_gt_exists": ((n, 8), "float32"),
        "chi_angles": ((n, 4), "float32"),
        "chi_mask": ((n, 4), "float32"),
        "resolution": ((), "float32"),
    }


def _shapes(features):
    return {name: (np.shape(x), x.dtype.name) for name, x in features.items()}


@pytest.mark.parametrize(
    ("crop", "clusters", "rows"), [(16, 8, 60), (64, 8, 60), (16, 100, 60), (64, 100, 60), (37, 60, 60), (50, 4, 1)]
)
def test_shapes_do_not_depend_on_the_protein_and_padding_is_zero(crop, clusters, rows):
    features = _example(random_protein(rows, LENGTH), crop=crop, msa_clusters=clusters)
    sampled = _sampled(crop, clusters, 1)
    assert _shapes(features) == _alone(crop) | sampled
    residues, depth = min(crop, LENGTH), min(clusters, rows)
    assert features["seq_mask"].sum() == residues
    assert features["msa_mask"].sum() == residues * depth
    for name, value in features.items():
        if name in sampled:
            assert not value[:, depth:].any(), name
            assert not value[:, :, residues:].any(), name
        else:
            assert not value[residues:].any(), name


@pytest.mark.parametrize(("crop", "rows", "templates"), [(16, 60, 9), (64, 60, 2), (50, 12, 0), (50, 3, 1)])
def test_the_whole_networks_features_are_padded_too(crop, rows, templates):
    shape = replace(WHOLE, crop=crop)
    protein = random_protein(rows, LENGTH, templates=templates)
    features = example(protein, np.random.default_rng(0), shape, training=False)
    sampled = _sampled(crop, 8, 2)
    whole = _whole(crop, 20, 3, 2)
    assert _shapes(features) == _alone(crop) | sampled | whole
    residues, extra = min(crop, LENGTH), min(max(rows - 8, 0), 20)
    assert features["extra_msa_mask"].sum() == 2 * extra * residues
    assert features["template_mask"].tolist() == [1.0] * min(templates, 3) + [0.0] * (3 - min(templates, 3))
    assert features["resolution"] == 1.5
    for name, value in features.items():
        if name.startswith("extra_"):
            assert not value[:, extra:].any(), name
        if name.startswith("template_"):
            assert not value[templates:].any(), name
        if name not in ("resolution", "template_mask"):
            place = [size == crop for size in value.shape].index(True)
            assert not np.moveaxis(value, place, 0)[residues:].any(), name


def test_a_configuration_says_what_its_examples_hold():
    config = compose(["data.crop=24", "data.msa_clusters=8"])
    assert example_shape(config) == ExampleShape(crop=24, msa_clusters=8, mask_fraction=config.data.mask_fraction)
    model = replace(config.model, recycles=3, structure=replace(config.model.structure, layers=2))
    data = replace(config.data, extra_msa=32, templates=2)
    assert example_shape(replace(config, model=model, data=data)) == ExampleShape(
        crop=24,
        msa_clusters=8,
        extra_msa=32,
        templates=2,
        passes=4,
        structure=True,
        mask_fraction=config.data.mask_fraction,
    )
    without = replace(config.model, template=replace(config.model.template, angles=False))
    assert not example_shape(replace(config, model=without)).template_angles
    data = MsaDirConfig(root="", crop=24, msa_clusters=8, block_deletions=3, block_fraction=0.2, spatial_crop=0.5)
    shape = example_shape(replace(config, data=data))
    assert (shape.block_deletions, shape.block_fraction, shape.spatial_crop) == (3, 0.2, 0.5)


def test_templates_may_come_without_angles():
    protein = random_protein(60, LENGTH, templates=5)
    whole, without = _example(protein, 1, WHOLE), _example(protein, 1, replace(WHOLE, template_angles=False))
    assert whole.keys() - without.keys() == {"template_angle_feat", "template_angle_mask"}
    for name, x in without.items():
        np.testing.assert_array_equal(x, whole[name])


def test_same_generator_state_same_example():
    protein = random_protein(60, LENGTH, templates=5)
    first, again, other = (_example(protein, seed, WHOLE) for seed in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["msa_feat"] != other["msa_feat"]).any()


def test_every_pass_samples_the_alignment_anew_and_the_first_as_if_alone():
    protein = random_protein(60, LENGTH)
    alone, several = _example(protein), _example(protein, passes=3)
    for name in _sampled(0, 0, 0):
        np.testing.assert_array_equal(several[name][:1], alone[name])
    for name in ("true_msa", "bert_mask"):
        assert len({x.tobytes() for x in several[name]}) == 3
    np.testing.assert_array_equal(several["true_msa"][:, 0], [alone["aatype"]] * 3)


def test_what_else_an_example_holds_does_not_change_the_draws_of_the_msa():
    protein = random_protein(60, LENGTH, templates=5)
    plain, whole = _example(protein, passes=2), _example(protein, shape=WHOLE)
    for name, value in plain.items():
        np.testing.assert_array_equal(whole[name], value, err_msg=name)


def test_the_crop_cuts_everything_alike_and_starts_anywhere():
    protein = random_protein(60, LENGTH, templates=2)
    starts = {int(_example(protein, seed)["residue_index"][0]) for seed in range(400)}
    assert starts == set(range(LENGTH - 16 + 1))
    rng = np.random.default_rng(1)
    features = example(protein, rng, WHOLE, training=False)
    start = features["residue_index"][0]
    assert start > 0
    window = slice(start, start + 16)
    np.testing.assert_array_equal(features["residue_index"], np.arange(start, start + 16))
    np.testing.assert_array_equal(features["aatype"], protein.msa[0, window])
    np.testing.assert_array_equal(features["target_feat"][:, 1:].argmax(-1), protein.msa[0, window])
    assert not features["target_feat"][:, 0].any()
    glycine = features["aatype"] == GLYCINE
    np.testing.assert_array_equal(features["pseudo_beta_mask"][glycine], protein.atom_mask[window][glycine, CA_ATOM])
    np.testing.assert_array_equal(features["pseudo_beta"][~glycine], protein.atom_positions[window][~glycine, 3])
    np.testing.assert_array_equal(features["all_atom_positions"], protein.atom_positions[window])
    np.testing.assert_array_equal(features["template_aatype"][:2], protein.templates.aatype[:, window])


def test_the_query_stays_first():
    protein = random_protein(60, LENGTH)
    for seed in range(5):
        features = _example(protein, seed)
        np.testing.assert_array_equal(features["true_msa"][0, 0], protein.msa[0, features["residue_index"]])


def test_cluster_centres_and_extra_rows_share_no_row():
    protein = random_protein(30, LENGTH)
    msa = np.tile(np.arange(30, dtype=np.uint8)[:, None] % 20, (1, LENGTH))
    msa[:, 0] = np.arange(30) // 20  # two columns tell the rows apart
    features = _example(replace(protein, msa=msa), crop=LENGTH, extra_msa=40, passes=3)
    for centres, extra in zip(features["true_msa"], features["extra_msa"][:, :22], strict=True):
        rows = np.concatenate([centres, extra])
        assert sorted(map(tuple, rows[:, :2].tolist())) == sorted(map(tuple, msa[:, :2].tolist()))


def test_nothing_hidden_leaves_the_msa_as_it_is():
    features = _example(random_protein(60, LENGTH), mask_fraction=0.0)
    np.testing.assert_array_equal(features["msa_feat"][..., :23].argmax(-1), features["true_msa"])
    assert not features["bert_mask"].any()


def test_no_more_templates_are_shown_than_asked_for_and_in_training_their_number_varies():
    protein = random_protein(60, LENGTH, templates=6)
    shown = [int(_example(protein, seed, WHOLE)["template_mask"].sum()) for seed in range(60)]
    assert set(shown) == {0, 1, 2, 3}
    best = example(protein, np.random.default_rng(0), replace(WHOLE, crop=LENGTH), training=False)
    np.testing.assert_array_equal(best["template_aatype"], protein.templates.aatype[:3])
