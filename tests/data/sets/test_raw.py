import pickle

import numpy as np
import pytest
from made_proteins import SEQUENCE, STRUCTURE, add, add_index

from evotrain.data.features.labels import structure_labels
from evotrain.data.formats.alignment import letters
from evotrain.data.protein import CA_ATOM
from evotrain.data.sets.raw import ProteinCache, RawSet, size
from evotrain.data_config import ProteinSetConfig
from evotrain.errors import DataError


def _open(root, **keys):
    return RawSet(ProteinSetConfig(root=str(root), **keys))


def test_reads_what_is_there(tmp_path):
    add(tmp_path, *"fedcba")
    data = _open(tmp_path)
    assert data.ids == list("abcdef")
    assert data.description == ""
    protein = data.read("a")
    assert protein.name == "a"
    assert letters(protein.msa[0]) == SEQUENCE
    assert protein.msa.shape == protein.deletions.shape == (2, 10)
    assert protein.atom_positions.shape == (10, 37, 3)
    assert protein.atom_mask[:, CA_ATOM].all()
    np.testing.assert_array_equal(protein.b_factor, 10 * np.arange(1, 11) - 5)
    np.testing.assert_array_equal(protein.residue_index, np.arange(10))
    assert data.facts("a").length == 10
    assert data.files("a") == [tmp_path / "a" / "msa.a3m", tmp_path / "a" / "structure.pdb"]


def test_says_what_it_leaves_out(tmp_path):
    add(tmp_path, *"ab")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "msa.a3m").touch()
    (tmp_path / "figures").mkdir()
    add_index(tmp_path, "id", "a", "half", "x", "y")
    data = _open(tmp_path)
    assert data.ids == ["a", "b"]
    assert data.unusable == {"half": "has no structure"}
    assert data.description == "1 folder left out (half has no structure); 2 ids of index.csv without files"


def _templates(count, length=10):
    return {
        "template_aatype": np.zeros((count, length), np.int32),
        "template_all_atom_positions": np.ones((count, length, 37, 3), np.float32),
        "template_all_atom_masks": np.ones((count, length, 37), np.float32),
    }


def test_templates_are_read_where_there_are_any(tmp_path):
    add(tmp_path, *"ab")
    np.savez(tmp_path / "a" / "templates.npz", **_templates(3))
    data = _open(tmp_path)
    protein = data.read("a")
    assert protein.templates.atom_positions.shape == (3, 10, 37, 3)
    assert data.read("b").templates is None
    assert size(protein) > size(data.read("b")) + protein.templates.atom_positions.nbytes
    assert tmp_path / "a" / "templates.npz" in data.files("a")
    with pytest.raises(ValueError, match="read-only"):
        protein.templates.aatype[0, 0] = 1


def test_templates_of_another_length(tmp_path):
    add(tmp_path, "a")
    path = tmp_path / "a" / "templates.npz"
    np.savez(path, **_templates(3, length=9))
    with pytest.raises(DataError) as caught:
        _open(tmp_path).read("a")
    assert str(caught.value) == (
        f"{path}: template_aatype has the shape [3, 9], expected [3, 10] or [3, 10, 22], for 10 residues."
    )


def test_the_chain_column_chooses_the_chain(tmp_path):
    add(tmp_path, "a")
    assert STRUCTURE.count(" A ") == 20
    two = STRUCTURE + "TER\n" + STRUCTURE.replace(" A ", " B ")
    (tmp_path / "a" / "structure.pdb").write_text(two)
    with pytest.raises(DataError, match="several protein chains"):
        _open(tmp_path).read("a")
    add_index(tmp_path, "id,chain", "a,B")
    assert _open(tmp_path).read("a").atom_mask[:, CA_ATOM].all()


def test_rows_are_merged_without_repetitions(tmp_path):
    """In the order of AlphaFold; of rows with the same aligned letters the first stays, with its deletions."""
    (tmp_path / "a").mkdir()
    uniref = f"# STOCKHOLM 1.0\n\nq {SEQUENCE}\nu1 MKLAVESTG-\nu2 MKLAVEST--\n//\n"
    bfd = f">q\n{SEQUENCE}\n>b1\nMKaaLAVESTG-\n>b2\n-KaLAVESTGG\n"
    mgnify = f">q\n{SEQUENCE}\n>m1\n-KLAVESTGG\n>m2\n--LAVESTGG\n"
    (tmp_path / "a" / "mgnify_hits.a3m").write_text(mgnify)
    (tmp_path / "a" / "bfd_uniclust_hits.a3m").write_text(bfd)
    (tmp_path / "a" / "uniref90_hits.sto").write_text(uniref)
    (tmp_path / "a" / "structure.pdb").write_text(STRUCTURE)
    protein = _open(tmp_path).read("a")
    assert [letters(row) for row in protein.msa] == [
        SEQUENCE, "MKLAVESTG-", "MKLAVEST--", "-KLAVESTGG", "--LAVESTGG",
    ]  # fmt: skip
    assert protein.deletions.sum(1).tolist() == [0, 0, 0, 1, 0]


def test_alignments_are_cut_to_the_rows_that_alphafold_uses(tmp_path):
    (tmp_path / "a").mkdir()
    alphabet = "ARNDCQEGHILKMFPSTWYV"
    others = [f"{x}{y}{z}{SEQUENCE[3:]}" for x in "AR" for y in alphabet for z in alphabet]
    rows = "".join(f">h{i}\n{row}\n" for i, row in enumerate(others))
    (tmp_path / "a" / "mgnify_hits.a3m").write_text(f">q\n{SEQUENCE}\n{rows}")
    (tmp_path / "a" / "structure.pdb").write_text(STRUCTURE)
    assert len(_open(tmp_path).read("a").msa) == 501
    (tmp_path / "a" / "mgnify_hits.a3m").rename(tmp_path / "a" / "bfd_uniclust_hits.a3m")
    assert len(_open(tmp_path).read("a").msa) == 801


def test_alignments_of_different_queries(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "uniref90_hits.a3m").write_text(f">q\n{SEQUENCE}\n")
    (tmp_path / "a" / "mgnify_hits.a3m").write_text(f">q\n{SEQUENCE[1:]}\n")
    (tmp_path / "a" / "structure.pdb").write_text(STRUCTURE)
    with pytest.raises(DataError, match=r"a/uniref90_hits.a3m: the alignments are of different queries"):
        _open(tmp_path).read("a")


def test_the_structure_of_an_entry_and_the_chain_of_the_id(tmp_path):
    chains, structures = tmp_path / "chains", tmp_path / "cif"
    (chains / "1abc_B" / "a3m").mkdir(parents=True)
    (chains / "1abc_B" / "a3m" / "uniref90_hits.a3m").write_text(f">q\n{SEQUENCE}\n")
    structures.mkdir()
    moved = STRUCTURE.replace(" A ", " B ").replace(f"{3.8:8.3f}", f"{99:8.3f}")
    (structures / "1abc.pdb").write_text(STRUCTURE + "TER\n" + moved)
    data = _open(chains, structures=str(structures))
    assert data.read("1abc_B").atom_positions[0, CA_ATOM, 0] == 99
    assert data.files("1abc_B")[1] == structures / "1abc.pdb"
    add_index(chains, "id,chain", "1abc_B,A")
    assert _open(chains, structures=str(structures)).read("1abc_B").atom_positions[0, CA_ATOM, 0] == np.float32(3.8)


def test_feature_and_label_dictionaries(tmp_path):
    add(tmp_path, "a")
    plain = _open(tmp_path).read("a")
    hhblits = np.array([list("ACDEFGHIKLMNPQRSTVWYX-").index(c) for c in "ARNDCQEGHILKMFPSTWYVX-"])
    np.savez(
        tmp_path / "a" / "features.npz",
        msa=hhblits[plain.msa],
        deletion_matrix_int=plain.deletions + 2,
        **_templates(2),
    )
    np.savez(
        tmp_path / "a" / "labels.npz",
        all_atom_positions=plain.atom_positions + 1,
        all_atom_mask=plain.atom_mask,
        aatype_index=plain.msa[0],
    )
    (tmp_path / "a" / "msa.a3m").unlink()
    (tmp_path / "a" / "structure.pdb").unlink()
    data = _open(tmp_path)
    protein = data.read("a")
    np.testing.assert_array_equal(protein.msa, plain.msa)
    np.testing.assert_array_equal(protein.deletions, plain.deletions + 2)
    shift = (protein.atom_positions - plain.atom_positions)[plain.atom_mask > 0]
    np.testing.assert_allclose(shift, 1, atol=1e-5)
    assert len(protein.templates.aatype) == 2
    assert [path.name for path in data.files("a")] == ["features.npz", "labels.npz"]
    labels = structure_labels(protein.msa[0].astype(np.int32), protein.atom_positions, protein.atom_mask)
    assert labels["all_atom_mask"].sum() == 20


def test_one_alignment_file_is_a_set(tmp_path):
    (tmp_path / "query.a3m").write_text(f"#10\t1\n>101\n{SEQUENCE}\n")
    (tmp_path / "query.pdb").write_text(STRUCTURE)
    (tmp_path / "other.a3m").touch()
    add_index(tmp_path, "id,chain", "query,A", "other,B")
    data = _open(tmp_path / "query.a3m")
    assert data.ids == ["query"]
    assert data.description == ""
    assert letters(data.read("query").msa[0]) == SEQUENCE


def test_proteins_are_parsed_once_and_the_cache_stays_bounded(tmp_path):
    add(tmp_path, *"abcdef")
    data = _open(tmp_path)
    protein = data.read("a")
    assert data.read("a") is protein
    with pytest.raises(ValueError, match="read-only"):
        protein.msa[0, 0] = 1
    again = pickle.loads(pickle.dumps(data))  # as it is sent to a worker process
    np.testing.assert_array_equal(again.read("a").msa, protein.msa)
    cache = ProteinCache(2 * size(protein))
    for name in "abac":
        cache.put(data.read(name))
        cache.get("a")
    assert [cache.get(name) is not None for name in "abc"] == [True, False, True]


def test_a_directory_of_template_structures_that_is_not_there(tmp_path):
    add(tmp_path, "a")
    with pytest.raises(DataError) as caught:
        _open(tmp_path, template_structures=str(tmp_path / "no"))
    assert str(caught.value) == (
        f"data.template_structures={tmp_path}/no: no such directory (it would be {tmp_path}/no)."
    )
