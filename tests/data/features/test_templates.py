"""Templates: read from AlphaFold's arrays, chosen as in its training, and turned into its features."""

from collections import Counter

import numpy as np
import pytest
from quick_compile import QUICK

from evotrain.data.features.templates import CANDIDATES, choose_templates, read_templates, template_features
from evotrain.data.protein import GAP, GLYCINE, UNKNOWN, Templates
from evotrain.errors import DataError

COUNT, LENGTH = 5, 30


def _arrays(count=COUNT, length=LENGTH, seed=0):
    """As AlphaFold's data pipeline writes them."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((count, length, 37)) < 0.8).astype(np.float32)
    mask[:, :4] = 0  # nothing aligned
    one_hot = np.eye(22, dtype=np.float32)[rng.integers(0, 21, (count, length))]
    one_hot[:, :4] = np.eye(22)[21]
    positions = 10 * rng.standard_normal((count, length, 37, 3)).astype(np.float32)
    return {
        "template_aatype": one_hot,
        "template_all_atom_positions": positions * mask[..., None],
        "template_all_atom_masks": mask,
        "template_sum_probs": np.arange(count, 0, -1, dtype=np.float32)[:, None],
    }


def _write(tmp_path, arrays):
    path = tmp_path / "templates.npz"
    np.savez(path, **arrays)
    return path


def _read(tmp_path, arrays, length=LENGTH):
    return read_templates(_write(tmp_path, arrays), length)


def _sentence(path, length=LENGTH):
    with pytest.raises(DataError) as caught:
        read_templates(path, length)
    return str(caught.value)


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


def test_features_equal_alphafolds(tmp_path):
    arrays = _arrays()
    found = template_features(_read(tmp_path, arrays), np.arange(COUNT), slice(0, LENGTH))
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


def test_chosen_templates_and_the_crop_are_cut_out(tmp_path):
    templates = _read(tmp_path, _arrays())
    found = template_features(templates, np.array([3, 1]), slice(10, 17))
    assert found["template_angle_feat"].shape == (2, 7, 57)
    np.testing.assert_array_equal(found["template_aatype"], templates.aatype[[3, 1], 10:17])
    assert not found["template_angle_feat"][:, 0, -7:-5].any()  # omega and phi need the residue before


def test_the_most_trusted_come_first_in_any_notation(tmp_path):
    arrays = _arrays()
    ranked = _read(tmp_path, arrays)
    order = np.array([2, 0, 4, 1, 3])
    shuffled = {name: x[order] for name, x in arrays.items()}
    shuffled["template_all_atom_mask"] = shuffled.pop("template_all_atom_masks")
    shuffled["template_sum_probs"] = shuffled["template_sum_probs"][:, 0]
    shuffled["template_domain_names"] = np.array([f"{i}abc_A" for i in order], object)  # never unpickled
    again = _read(tmp_path, shuffled)
    indices = _read(tmp_path, arrays | {"template_aatype": ranked.aatype})
    unranked = _read(tmp_path, {k: x[order] for k, x in arrays.items() if k != "template_sum_probs"})
    for name, x in vars(ranked).items():
        np.testing.assert_array_equal(getattr(again, name), x)
        np.testing.assert_array_equal(getattr(indices, name), x)
        np.testing.assert_array_equal(getattr(unranked, name), x[order])


def test_residue_letters_and_gaps(tmp_path):
    arrays = _arrays(1, 22)
    arrays["template_aatype"] = np.eye(22, dtype=np.float32)[None]
    aatype = _read(tmp_path, arrays, 22).aatype[0]
    assert "".join("ARNDCQEGHILKMFPSTWYVX-"[code] for code in aatype) == "ACDEFGHIKLMNPQRSTVWYX-"
    assert aatype[-2:].tolist() == [UNKNOWN, GAP]


def test_no_templates(tmp_path):
    assert _read(tmp_path, _arrays(0)) is None
    assert _read(tmp_path, {name: np.zeros(0, np.float32) for name in _arrays()}) is None
    chosen = choose_templates(None, np.random.default_rng(0), 4)
    assert chosen.tolist() == []
    features = template_features(None, chosen, slice(3, 9))
    assert {len(x) for x in features.values()} == {0}


def test_what_was_not_observed_may_be_anything(tmp_path):
    arrays = _arrays()
    unobserved = arrays["template_all_atom_masks"] == 0
    odd = arrays["template_all_atom_positions"].copy()
    odd[unobserved] = np.nan
    templates = _read(tmp_path, arrays | {"template_all_atom_positions": odd})
    np.testing.assert_array_equal(templates.atom_positions, arrays["template_all_atom_positions"])


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


def test_files_that_hold_no_templates(tmp_path):
    arrays = _arrays()
    path = tmp_path / "templates.npz"
    path.write_bytes(b"no archive")
    assert _sentence(path).startswith(f"{path}: cannot be read as an .npz file of plain arrays (")
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:-40])
    assert _sentence(path).startswith(f"{path}: cannot be read as an .npz file of plain arrays (")
    np.save(path.with_suffix(".npy"), arrays["template_aatype"])
    assert "cannot be read as an .npz" in _sentence(path.with_suffix(".npy"))
    missing = {name: x for name, x in arrays.items() if name != "template_all_atom_masks"}
    assert _sentence(_write(tmp_path, missing)) == (
        f"{path}: has no template_all_atom_masks; it needs template_aatype, template_all_atom_positions, "
        f"template_all_atom_masks."
    )
    objects = arrays | {"template_aatype": arrays["template_aatype"].astype(object)}
    assert "cannot be read as an .npz file of plain arrays (Object arrays" in _sentence(_write(tmp_path, objects))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("template_aatype", np.zeros((5, 30, 21)), "template_aatype has the shape [5, 30, 21], expected [5, 30] or [5, "
         "30, 22], for 30 residues."),
        ("template_aatype", np.array("A"), "template_aatype is no array of numbers."),
        ("template_aatype", np.full((5, 30), 22), "template_aatype holds values that are no residue types (0 to 20, 21 "
         "a gap)."),
        ("template_all_atom_positions", np.zeros((5, 29, 37, 3)), "template_all_atom_positions has the shape [5, 29, "
         "37, 3], expected [5, 30, 37, 3], for 30 residues."),
        ("template_sum_probs", np.zeros(4), "template_sum_probs has the shape [4], expected [5] or [5, 1], for 30 "
         "residues."),
        ("template_all_atom_positions", np.full((5, 30, 37, 3), np.nan), "an observed atom has no finite coordinates, "
         "or a mask is neither 0 nor 1."),
        ("template_all_atom_masks", np.full((5, 30, 37), 0.5), "an observed atom has no finite coordinates, or a mask "
         "is neither 0 nor 1."),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(tmp_path, name, value, sentence):
    path = _write(tmp_path, _arrays() | {name: value})
    assert _sentence(path) == f"{path}: {sentence}"


def test_real_templates_of_alphafolds_pipeline(realdata, tmp_path):
    folder = realdata.parent / "features"
    for name in ("openfold_raw_feature_dict", "openfold_raw_features", "unifold_8d27_A_feature"):
        with np.load(folder / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file if key.startswith("template_")}
        templates = _read(tmp_path, arrays, arrays["template_aatype"].shape[1])
        # What the residue letters say, the coordinates say too: glycine has no Cβ, other residues have one.
        carbons = templates.atom_mask[..., 1] > 0
        glycine, others = templates.aatype[carbons] == GLYCINE, templates.aatype[carbons] < UNKNOWN
        assert not templates.atom_mask[carbons][glycine, 3].any()
        assert templates.atom_mask[carbons][others & ~glycine, 3].mean() > 0.95
        assert (templates.aatype[~templates.atom_mask.any(-1)] == GAP).mean() > 0.5
