import gzip
from pathlib import Path

import numpy as np
import pytest

from evotrain.data.formats.alignment import encode, letters
from evotrain.data.formats.feature_dict import read_feature_dict, read_labels
from evotrain.data.formats.template_arrays import HHBLITS_LETTERS
from evotrain.data.protein import GAP
from evotrain.errors import DataError

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "realdata" / "features"
QUERY, HIT = "MKLXW", "M-LYW"


def _hhblits(*rows):
    return np.array([[HHBLITS_LETTERS.index(letter) for letter in row] for row in rows], np.int32)


def _features(**changes):
    arrays = {
        "msa": _hhblits(QUERY, HIT),
        "deletion_matrix_int": np.array([[0] * 5, [0, 0, 3, 0, 0]], np.int32),
        "aatype": np.eye(21, dtype=np.int32)[encode(QUERY)],
        "residue_index": np.arange(10, 15, dtype=np.int32),
        "msa_species_identifiers": np.array([b"", b"HUMAN"], object),  # pickled: must not be touched
    }
    return {name: x for name, x in {**arrays, **changes}.items() if x is not None}


def _sparse(shape, row, column, data):
    parts = {"shape": shape, "row": row, "col": column, "data": data}
    return {"deletion_matrix_int": None} | {
        f"sparse_deletion_matrix_int__{name}": np.array(x, np.int32) for name, x in parts.items()
    }


def _labels(**changes):
    mask = np.zeros((5, 37), np.int8)
    mask[1:, :4] = 1
    arrays = {
        "aatype_index": encode(QUERY).astype(np.int8),
        "all_atom_positions": np.arange(5 * 37 * 3, dtype=np.float32).reshape(5, 37, 3),
        "all_atom_mask": mask,
        "resolution": np.array([2.25], np.float32),
        "release_date": np.array(["2022-07-06"]),
    }
    return {name: x for name, x in {**arrays, **changes}.items() if x is not None}


def _save(tmp_path, arrays, name="features.npz"):
    path = tmp_path / name
    np.savez(path, **arrays)
    return path


def test_an_alignment_in_hhblits_order(tmp_path):
    features = read_feature_dict(_save(tmp_path, _features()))
    assert features.query == QUERY
    assert features.msa.dtype == np.uint8
    assert [letters(row) for row in features.msa] == [QUERY, HIT]
    assert features.deletions.dtype == features.residue_index.dtype == np.int32
    np.testing.assert_array_equal(features.deletions, [[0] * 5, [0, 0, 3, 0, 0]])
    np.testing.assert_array_equal(features.residue_index, np.arange(10, 15))
    assert features.templates is None


def test_the_fewest_arrays_and_gzip(tmp_path):
    path = _save(tmp_path, _features(aatype=None, residue_index=None))
    path.write_bytes(gzip.compress(path.read_bytes()))
    features = read_feature_dict(path)
    np.testing.assert_array_equal(features.residue_index, np.arange(5))
    assert features.msa[1, 1] == GAP


def test_sparse_deletions(tmp_path):
    features = read_feature_dict(_save(tmp_path, _features(**_sparse((2, 5), [1, 0, 1], [2, 4, 0], [3, 1, 2]))))
    np.testing.assert_array_equal(features.deletions, [[0, 0, 0, 0, 1], [2, 0, 3, 0, 0]])


def test_templates_of_the_dictionary(tmp_path):
    arrays = {
        "template_aatype": np.eye(22, dtype=np.float32)[_hhblits(HIT)],
        "template_all_atom_positions": np.ones((1, 5, 37, 3), np.float32),
        "template_all_atom_masks": np.ones((1, 5, 37), np.float32),
    }
    templates = read_feature_dict(_save(tmp_path, _features(**arrays))).templates
    assert letters(templates.aatype[0]) == HIT


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"msa": None, "msa_feat": np.zeros(3)}, "has no msa; give the features as the data pipeline writes them"),
        ({"msa": np.zeros(5, int)}, "msa has the shape [5]; expected rows and residues."),
        ({"msa": np.zeros((0, 5), int)}, "msa has the shape [0, 5]; expected rows and residues."),
        ({"msa": np.zeros((2, 5))}, "msa is no array of whole numbers."),
        ({"msa": np.full((2, 5), 22)}, "msa holds values that are no residue types (0 to 20, 21 a gap)."),
        ({"msa": _hhblits(HIT, QUERY)}, "the first row of msa has gaps, so it is no query."),
        ({"aatype": encode("MKLW")}, "aatype has 4 residues, but the first row of msa has 5."),
        ({"aatype": encode("MALXW")}, "aatype is another sequence than the first row of msa: 3 of 4 residues agree."),
        ({"msa": np.ones((2, 5), bool)}, "msa is no array of whole numbers."),
        ({"aatype": np.ones(5, bool)}, "aatype is no array of whole numbers."),
        ({"aatype": np.ones((5, 21), bool)}, "aatype is no array of whole numbers."),
        ({"residue_index": np.ones(5, bool)}, "residue_index is no array of whole numbers."),
        ({"deletion_matrix_int": np.ones((2, 5), bool)}, "deletion_matrix_int is no array of whole numbers."),
        ({"residue_index": np.array([0, 1, 1, 2, 3])}, "residue_index does not increase from residue to residue; give"),
        ({"residue_index": np.array([3, 4, 0, 1, 2])}, "residue_index does not increase from residue to residue; give"),
        ({"residue_index": np.arange(4)}, "residue_index has the shape [4], expected [5]."),
        ({"deletion_matrix_int": None}, "has no deletion_matrix_int, neither as an array nor in its sparse form."),
        ({"deletion_matrix_int": np.zeros((1, 5), int)}, "deletion_matrix_int has the shape [1, 5], expected [2, 5]."),
        ({"deletion_matrix_int": np.full((2, 5), -1)}, "deletion_matrix_int holds negative numbers."),
        (_sparse((2, 6), [1], [2], [3]), "sparse_deletion_matrix_int is not of the shape of msa, [2, 5]."),
        (_sparse((2, 5), [1], [5], [3]), "sparse_deletion_matrix_int is not of the shape of msa, [2, 5]."),
        (_sparse((2, 5), [1], [2, 3], [3]), "sparse_deletion_matrix_int__col has the shape [2], expected [1]."),
    ],
)
def test_what_is_no_feature_dictionary(tmp_path, changes, sentence):
    path = _save(tmp_path, _features(**changes))
    with pytest.raises(DataError) as caught:
        read_feature_dict(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


def test_labels(tmp_path):
    chain = read_labels(_save(tmp_path, _labels()), QUERY)
    assert chain.atom_positions.dtype == chain.atom_mask.dtype == chain.b_factor.dtype == np.float32
    np.testing.assert_array_equal(chain.atom_mask, _labels()["all_atom_mask"])
    assert not chain.atom_positions[chain.atom_mask == 0].any()
    np.testing.assert_array_equal(chain.atom_positions[1, 1], [114, 115, 116])
    assert (chain.resolution, chain.release_date) == (2.25, "2022-07-06")


@pytest.mark.parametrize(
    ("changes", "resolution", "date"),
    [
        ({"resolution": None, "release_date": None}, 0.0, ""),
        ({"resolution": np.array(np.nan), "release_date": np.array(b"2022-07-06")}, 0.0, "2022-07-06"),
        ({"resolution": np.array([-1.0]), "release_date": np.array(["last year"])}, 0.0, ""),
        ({"resolution": np.array([True]), "release_date": np.array([b"\xff2022-07-06"])}, 0.0, ""),
        ({"all_atom_mask": _labels()["all_atom_mask"] > 0}, 2.25, "2022-07-06"),
        ({"aatype_index": None, "aatype": np.eye(21)[encode(QUERY)]}, 2.25, "2022-07-06"),
    ],
)
def test_optional_parts_of_labels(tmp_path, changes, resolution, date):
    chain = read_labels(_save(tmp_path, _labels(**changes)), QUERY)
    assert (chain.resolution, chain.release_date) == (resolution, date)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"all_atom_mask": None},
            "has no all_atom_mask; labels are all_atom_positions, all_atom_mask and aatype_index.",
        ),
        ({"aatype_index": encode("MKLW")}, "aatype_index has 4 residues, but the query of the alignment has 5."),
        ({"aatype_index": encode("MALXW")}, "aatype_index is another sequence than the query of the alignment: 3 of 4"),
        ({"all_atom_positions": np.ones((5, 37, 3), bool)}, "all_atom_positions is no array of numbers of the shape"),
        ({"all_atom_mask": np.full((5, 37), 0.5)}, "a mask is neither 0 nor 1."),
        ({"all_atom_positions": np.full((5, 37, 3), np.nan)}, "an observed atom has no finite coordinates"),
        (
            {"all_atom_positions": np.zeros((5, 14, 3))},
            "all_atom_positions is no array of numbers of the shape [5, 37, 3]",
        ),
    ],
)
def test_what_are_no_labels(tmp_path, changes, sentence):
    path = _save(tmp_path, _labels(**changes), "labels.npz")
    with pytest.raises(DataError) as caught:
        read_labels(path, QUERY)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the dictionaries of {REAL}")
@pytest.mark.parametrize("name", ["openfold_raw_feature_dict", "openfold_raw_features", "unifold_8d27_A_feature"])
def test_real_dictionaries(name):
    path = REAL / f"{name}.npz"
    features = read_feature_dict(path)
    with np.load(path) as file:
        order = np.array(pytest.importorskip("alphafold.common.residue_constants").MAP_HHBLITS_AATYPE_TO_OUR_AATYPE)
        np.testing.assert_array_equal(features.msa, order[file["msa"]])
        assert features.query == file["sequence"].item().decode()
        np.testing.assert_array_equal(features.residue_index, file["residue_index"])
        if "deletion_matrix_int" in file:
            np.testing.assert_array_equal(features.deletions, file["deletion_matrix_int"])
        else:
            parts = [file[f"sparse_deletion_matrix_int__{part}"] for part in ("row", "col", "data")]
            np.testing.assert_array_equal(features.deletions[parts[0], parts[1]], parts[2])
            assert features.deletions.sum() == parts[2].sum()
        with_atoms = file["template_all_atom_positions"].any((1, 2, 3))
        assert len(features.templates.aatype) == with_atoms.sum()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the dictionaries of {REAL}")
def test_real_labels_and_the_input_of_a_model():
    path = REAL / "unifold_8d27_A_label.npz"
    chain = read_labels(path, read_feature_dict(REAL / "unifold_8d27_A_feature.npz").query)
    with np.load(path) as file:
        np.testing.assert_array_equal(chain.atom_mask, file["all_atom_mask"])
        observed = file["all_atom_mask"] > 0
        np.testing.assert_array_equal(chain.atom_positions[observed], file["all_atom_positions"][observed])
    assert (chain.resolution, chain.release_date) == (2.25, "2022-07-06")
    with pytest.raises(DataError, match="openfold_processed_sample_feats.npz: has no msa; give the features as"):
        read_feature_dict(REAL / "openfold_processed_sample_feats.npz")
