"""Templates as arrays in a file: any notation, ranked, checked."""

import numpy as np
import pytest
from made_templates import LENGTH, template_arrays

from evotrain.data.formats.template_arrays import read_templates
from evotrain.data.protein import GAP, GLYCINE, UNKNOWN
from evotrain.errors import DataError


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


def test_the_most_trusted_come_first_in_any_notation(tmp_path):
    arrays = template_arrays()
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
    arrays = template_arrays(1, 22)
    arrays["template_aatype"] = np.eye(22, dtype=np.float32)[None]
    aatype = _read(tmp_path, arrays, 22).aatype[0]
    assert "".join("ARNDCQEGHILKMFPSTWYVX-"[code] for code in aatype) == "ACDEFGHIKLMNPQRSTVWYX-"
    assert aatype[-2:].tolist() == [UNKNOWN, GAP]


def test_what_was_not_observed_may_be_anything(tmp_path):
    arrays = template_arrays()
    unobserved = arrays["template_all_atom_masks"] == 0
    odd = arrays["template_all_atom_positions"].copy()
    odd[unobserved] = np.nan
    templates = _read(tmp_path, arrays | {"template_all_atom_positions": odd})
    np.testing.assert_array_equal(templates.atom_positions, arrays["template_all_atom_positions"])


def test_files_that_hold_no_templates(tmp_path):
    arrays = template_arrays()
    path = tmp_path / "templates.npz"
    path.write_bytes(b"no archive")
    assert _sentence(path).startswith(f"{path}: is no .npz file")
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:-40])
    assert _sentence(path).startswith(f"{path}: cannot be read as an .npz file")
    missing = {name: x for name, x in arrays.items() if name != "template_all_atom_masks"}
    assert _sentence(_write(tmp_path, missing)) == (
        f"{path}: has no template_all_atom_masks; it needs template_aatype, template_all_atom_positions, "
        f"template_all_atom_masks."
    )
    objects = arrays | {"template_aatype": arrays["template_aatype"].astype(object)}
    assert "template_aatype cannot be read as a plain array" in _sentence(_write(tmp_path, objects))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("template_aatype", np.zeros((5, 30, 21)), "template_aatype has the shape [5, 30, 21], expected [5, 30] or [5, "
         "30, 22], for 30 residues."),
        ("template_aatype", np.array("A"), "template_aatype is no array of numbers."),
        ("template_aatype", np.ones((5, 30), bool), "template_aatype is no array of numbers."),
        ("template_sum_probs", np.ones(5, bool), "template_sum_probs is no array of numbers."),
        ("template_all_atom_positions", np.ones((5, 30, 37, 3), bool), "template_all_atom_positions is no array of "
         "numbers."),
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
    path = _write(tmp_path, template_arrays() | {name: value})
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


def test_none_and_those_without_atoms_are_no_templates(tmp_path):
    assert _read(tmp_path, template_arrays(0)) is None
    assert _read(tmp_path, {name: np.zeros(0, np.float32) for name in template_arrays()}) is None
    arrays = template_arrays()
    assert _read(tmp_path, {name: np.zeros_like(x) for name, x in arrays.items()}) is None
    expected = _read(tmp_path, {name: x[1:] for name, x in arrays.items()})
    arrays["template_all_atom_masks"][0] = 0
    found = _read(tmp_path, arrays)
    for name, x in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), x)
