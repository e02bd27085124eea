"""Templates: chosen as in AlphaFold's training, and turned into its features."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_templates import COUNT, LENGTH, template_arrays
from quick_compile import QUICK

from evotrain.data.features.templates import CANDIDATES, choose_templates, template_features
from evotrain.data.formats.template_arrays import templates_from_arrays
from evotrain.data.protein import GLYCINE, Templates


def _templates(arrays):
    return templates_from_arrays(Path("made up"), arrays, LENGTH)


def _reference(arrays):
    """AlphaFold's template features, as its pipeline and its network make them."""
    jax = pytest.importorskip("jax")
    transforms = pytest.importorskip("alphafold.model.tf.data_transforms")
    all_atom = pytest.importorskip("alphafold.model.all_atom")
    with jax.numpy_rank_promotion("allow"):
        batch = transforms.make_pseudo_beta("template_")(transforms.fix_templates_aatype(dict(arrays)))
        aatype, mask = np.asarray(batch["template_aatype"]), batch["template_all_atom_masks"]
        torsion_angles = jax.jit(all_atom.atom37_to_torsion_angles, compiler_options=QUICK)
        torsions = torsion_angles(aatype, batch["template_all_atom_positions"], mask)
        vectors = (torsions["torsion_angles_sin_cos"], torsions["alt_torsion_angles_sin_cos"])
        return {
            "template_aatype": aatype,
            "template_pseudo_beta": np.asarray(batch["template_pseudo_beta"]),
            "template_pseudo_beta_mask": np.asarray(batch["template_pseudo_beta_mask"]),
            "template_backbone_mask": mask[..., 0] * mask[..., 1] * mask[..., 2],
            "template_angle_mask": np.asarray(torsions["torsion_angles_mask"])[..., 2],
            "template_angle_feat": np.concatenate(
                [
                    np.asarray(jax.nn.one_hot(aatype, 22)),
                    *(np.asarray(x).reshape(*aatype.shape, 14) for x in vectors),
                    np.asarray(torsions["torsion_angles_mask"]),
                ],
                -1,
            ),
        }


def test_features_equal_alphafolds():
    arrays = template_arrays()
    found = template_features(_templates(arrays), np.arange(COUNT), slice(0, LENGTH))
    expected = _reference(arrays)
    assert found.keys() - expected.keys() == {"template_mask"}
    np.testing.assert_array_equal(found["template_mask"], np.ones(COUNT))
    for name, x in expected.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape)
        if name != "template_angle_feat":
            np.testing.assert_array_equal(found[name], x, err_msg=name)
    (types, *angles, mask), (their_types, *their_angles, their_mask) = (
        np.split(x["template_angle_feat"], [22, 36, 50], -1) for x in (found, expected)
    )
    np.testing.assert_array_equal(types, their_types)
    np.testing.assert_array_equal(mask, their_mask)
    defined = np.repeat(mask > 0, 2, -1)  # what is not is rounding where atoms without coordinates are in one place
    for mine, theirs in zip(angles, their_angles, strict=True):
        np.testing.assert_allclose(mine[defined], theirs[defined], rtol=0, atol=1e-5)
    assert (found["template_aatype"] == GLYCINE).any()
    assert 0 < found["template_angle_mask"].mean() < 1


def test_chosen_templates_and_the_crop_are_cut_out():
    templates = _templates(template_arrays())
    found = template_features(templates, np.array([3, 1]), slice(10, 17))
    assert found["template_angle_feat"].shape == (2, 7, 57)
    np.testing.assert_array_equal(found["template_aatype"], templates.aatype[[3, 1], 10:17])
    assert not found["template_angle_feat"][:, 0, -7:-5].any()  # omega and phi need the residue before


def test_no_templates():
    chosen = choose_templates(None, np.random.default_rng(0), 4)
    assert chosen.tolist() == []
    features = template_features(None, chosen, slice(3, 9))
    assert {len(x) for x in features.values()} == {0}


def _bank(count):
    return Templates(aatype=np.zeros((count, 1)), atom_positions=np.zeros((count, 1)), atom_mask=np.zeros((count, 1)))


def test_training_shows_a_uniform_number_up_to_four_of_the_best_twenty():
    rng = np.random.default_rng(0)
    draws = [choose_templates(_bank(30), rng, 4) for _ in range(6000)]
    shares = Counter(len(chosen) for chosen in draws)
    for size in range(4):
        assert shares[size] / 6000 == pytest.approx(1 / 21, abs=0.012)
    assert shares[4] / 6000 == pytest.approx(17 / 21, abs=0.02)
    shown = Counter(index for chosen in draws for index in chosen.tolist())
    assert set(shown) == set(range(CANDIDATES))
    assert max(shown.values()) < 1.2 * min(shown.values())
    assert all(len(set(chosen.tolist())) == len(chosen) for chosen in draws)
    assert {len(choose_templates(_bank(2), rng, 4)) for _ in range(100)} == {0, 1, 2}


def test_evaluation_shows_the_best():
    assert choose_templates(_bank(30), None, 4).tolist() == [0, 1, 2, 3]
    assert choose_templates(_bank(2), None, 4).tolist() == [0, 1]
