import csv
import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from evotrain.data.formats.alignment import letters
from evotrain.data.protein import CA_ATOM
from evotrain.data.sets.raw import MsaDir, _ProteinCache, _size
from evotrain.data_config import MsaDirConfig
from evotrain.errors import DataError

REAL = Path(__file__).parents[2].parent / "shared/realdata"
SEQUENCE = "MKLAVESTGG"
RESIDUES = ("MET", "LYS", "LEU", "ALA", "VAL", "GLU", "SER", "THR", "GLY", "GLY")
STRUCTURE = "".join(
    f"ATOM  {i:5d}  CA  {residue} A {i:3d}    {3.8 * i:8.3f}{0:8.3f}{0:8.3f}  1.00 20.00\n"
    f"ATOM  {i:5d}  C   {residue} A {i:3d}    {3.8 * i:8.3f}{1:8.3f}{0:8.3f}  1.00 20.00\n"
    for i, residue in enumerate(RESIDUES, start=1)
)


def _add(root, *names, alignment=f">q\n{SEQUENCE}\n>h\n{SEQUENCE}\n"):
    for name in names:
        (root / name).mkdir()
        (root / name / "msa.a3m").write_text(alignment)
        (root / name / "structure.pdb").write_text(STRUCTURE)


def _open(root, eval_fraction=0.5):
    return MsaDir(MsaDirConfig(root=str(root), crop=8, msa_clusters=4, eval_fraction=eval_fraction))


def _index(root, columns, *rows):
    (root / "index.csv").write_text("\n".join([columns, *rows]) + "\n")


def _sentence(root, **arguments):
    with pytest.raises(DataError) as caught:
        _open(root, **arguments)
    return str(caught.value)


def test_reads_what_is_there(tmp_path):
    _add(tmp_path, *"abcdef")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "msa.a3m").touch()
    (tmp_path / "figures").mkdir()
    data = _open(tmp_path)
    ids = data.train_ids + data.held_out_ids
    assert sorted(ids) == list("abcdef")
    assert data.description == (
        f"6 proteins, {len(data.train_ids)} train, {len(data.held_out_ids)} held out (by id); "
        "1 folder left out (half has no structure)"
    )
    protein, failure = data.load("a")
    assert failure == ""
    assert protein.name == "a"
    assert letters(protein.msa[0]) == SEQUENCE
    assert protein.msa.shape == protein.deletions.shape == (2, 10)
    assert protein.atom_positions.shape == (10, 37, 3)
    assert protein.atom_mask[:, CA_ATOM].all()
    np.testing.assert_array_equal(protein.residue_index, np.arange(10))


def _templates(count, length=10):
    return {
        "template_aatype": np.zeros((count, length), np.int32),
        "template_all_atom_positions": np.ones((count, length, 37, 3), np.float32),
        "template_all_atom_masks": np.ones((count, length, 37), np.float32),
    }


def test_templates_are_read_where_there_are_any(tmp_path):
    _add(tmp_path, *"abcdef")
    np.savez(tmp_path / "a" / "templates.npz", **_templates(3))
    data = _open(tmp_path)
    protein = data.read("a")
    assert protein.templates.atom_positions.shape == (3, 10, 37, 3)
    assert data.read("b").templates is None
    assert _size(protein) > _size(data.read("b")) + protein.templates.atom_positions.nbytes
    with pytest.raises(ValueError, match="read-only"):
        protein.templates.aatype[0, 0] = 1


def test_a_protein_with_broken_templates_is_replaced(tmp_path):
    _add(tmp_path, *"abcdef")
    np.savez(tmp_path / "a" / "templates.npz", **_templates(3, length=9))
    path = tmp_path / "a" / "templates.npz"
    protein, failure = _open(tmp_path).load("a")
    assert protein.name != "a"
    assert (
        failure == f"a: {path}: template_aatype has the shape [3, 9], expected [3, 10] or [3, 10, 22], for 10 residues."
    )


def test_a_relative_root_is_relative_to_the_current_directory(tmp_path, monkeypatch):
    _add(tmp_path, *"abcdef")
    monkeypatch.chdir(tmp_path.parent)
    assert _open(tmp_path.name).train_ids == _open(tmp_path).train_ids


def test_the_split_column_decides_where_it_names_one(tmp_path):
    _add(tmp_path, *"abcd")
    _index(tmp_path, "id,split", "a,train", " b , val", "c,Test", "d,train", "not_here,train")
    data = _open(tmp_path)
    assert (data.train_ids, data.held_out_ids) == (["a", "d"], ["b", "c"])
    assert data.description == ("4 proteins, 2 train, 2 held out (by split); 1 ids of index.csv without files")


def test_whole_clusters_are_held_out_where_the_split_column_splits_nothing(tmp_path):
    names = [f"p{i}" for i in range(40)]
    _add(tmp_path, *names)
    _index(tmp_path, "id,split,cluster", *(f"{name},public,c{i // 4}" for i, name in enumerate(names)))
    data = _open(tmp_path)
    clusters = {name: i // 4 for i, name in enumerate(names)}
    train, held_out = ({clusters[name] for name in ids} for ids in (data.train_ids, data.held_out_ids))
    assert not train & held_out
    assert len(train | held_out) == 10
    assert "(by cluster)" in data.description


def test_the_hash_holds_out_the_same_proteins_in_every_process(tmp_path):
    _add(tmp_path, *"abcdefgh")
    assert _open(tmp_path).held_out_ids == ["f", "g"]
    assert set(_open(tmp_path, 0.3).held_out_ids) <= set(_open(tmp_path, 0.6).held_out_ids)


def test_the_chain_column_chooses_the_chain(tmp_path):
    _add(tmp_path, *"abcdef")
    assert STRUCTURE.count(" A ") == 20
    two = STRUCTURE + "TER\n" + STRUCTURE.replace(" A ", " B ")
    (tmp_path / "a" / "structure.pdb").write_text(two)
    with pytest.raises(DataError, match="several protein chains"):
        _open(tmp_path).read("a")
    _index(tmp_path, "id,chain", "a,B")
    assert _open(tmp_path).read("a").atom_mask[:, CA_ATOM].all()


def test_a_broken_protein_is_replaced_by_the_next_of_its_split(tmp_path):
    _add(tmp_path, *"abcde")
    _index(tmp_path, "id,split", "a,train", "b,train", "c,val", "d,train", "e,train")
    (tmp_path / "b" / "msa.a3m").write_text("")
    (tmp_path / "e" / "structure.pdb").write_text("")
    data = _open(tmp_path)
    protein, failure = data.load("b")
    assert protein.name == "d"
    assert (
        failure
        == f"b: {tmp_path}/b/msa.a3m: the file is empty; an a3m needs at least the query: '>name' and its sequence."
    )
    protein, failure = data.load("e")
    assert protein.name == "a"
    assert failure.startswith(f"e: {tmp_path}/e/structure.pdb: holds no atoms")
    assert data.load("c")[0].name == "c"


def test_a_split_without_a_readable_protein(tmp_path):
    _add(tmp_path, *"abc", alignment=">q\nMK-A\n")
    _index(tmp_path, "id,split", "a,train", "b,train", "c,val")
    with pytest.raises(DataError) as caught:
        _open(tmp_path).load("b")
    assert str(caught.value).startswith(
        f"{tmp_path}: none of the 2 proteins of the split can be read; b: {tmp_path}/b/msa.a3m, line 1: the first"
    )


def test_a_directory_that_is_no_data_set(tmp_path):
    missing = tmp_path / "missing"
    assert _sentence(missing) == f"data.root={missing}: no such directory (it would be {missing})."
    (tmp_path / "file").touch()
    assert _sentence(tmp_path / "file").startswith(f"data.root={tmp_path}/file: cannot be listed as a directory (Not a")
    (tmp_path / "one").mkdir()
    assert _sentence(tmp_path) == (
        f"data.root={tmp_path}: none of its 1 folders is a protein; each needs msa.a3m[.gz] and "
        f"structure.cif[.gz] or structure.pdb[.gz]."
    )


def test_a_folder_that_cannot_be_used_does_not_stop_the_others(tmp_path, monkeypatch):
    _add(tmp_path, *"abcdefgh")
    (tmp_path / "b" / "structure.cif.gz").touch()
    data = _open(tmp_path)
    assert sorted(data.train_ids + data.held_out_ids) == list("acdefgh")
    assert data.description.endswith("; 1 folder left out (b has both structure.cif.gz and structure.pdb)")

    def scandir(path):
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    listed = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)  # the superuser may read everything
    data = _open(tmp_path)
    assert sorted(data.train_ids + data.held_out_ids) == list("cdefgh")
    assert data.description.endswith("; 2 folders left out (a cannot be read (Permission denied), …)")


def test_only_folders_that_cannot_be_used(tmp_path):
    _add(tmp_path, "a", "b")
    (tmp_path / "a" / "msa.a3m").unlink()
    (tmp_path / "b" / "msa.a3m").unlink()
    assert "none of its 2 folders is a protein; 2 folders left out (a has no alignment, …); each" in _sentence(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("name,split\na,train\n", "index.csv: has no column id; its first line must name the columns."),
        ("id,split\na,train\nb,val\na,val\n", "index.csv, line 4: the id 'a' is there twice; keep one row."),
        ("id,split\na,train\nb,vla\n", "index.csv: the split of 'b' is 'vla'; write train or val for every protein."),
        ("id,split\na,train\n", "index.csv: the split of 'b' is ''; write train or val for every protein."),
        ("id,split\na,train\nb,train\n", "no protein is left to evaluate on (2 proteins, 2 train, 0 held out "
         "(by split)); change data.eval_fraction, or give index.csv a split column with train and val."),
        ("id,split\na,test\nb,val\n", "no protein is left to train on"),
        ("id,cluster\na,1\nb,1\n", "(by cluster)); change data.eval_fraction, or give"),
        ("id\n\xff\n", "index.csv: cannot be read as a comma-separated table"),
    ],
)  # fmt: skip
def test_an_index_that_cannot_be_used(tmp_path, content, sentence):
    _add(tmp_path, "a", "b")
    (tmp_path / "index.csv").write_bytes(content.encode("latin-1"))
    assert sentence in _sentence(tmp_path)


def test_proteins_are_parsed_once_and_the_cache_stays_bounded(tmp_path):
    _add(tmp_path, *"abcdef")
    data = _open(tmp_path)
    protein = data.read("a")
    assert data.read("a") is protein
    with pytest.raises(ValueError, match="read-only"):
        protein.msa[0, 0] = 1
    again = pickle.loads(pickle.dumps(data))  # as it is sent to a worker process
    np.testing.assert_array_equal(again.read("a").msa, protein.msa)
    cache = _ProteinCache(2 * _size(protein))
    for name in "abac":
        cache.put(data.read(name))
        cache.get("a")
    assert [cache.get(name) is not None for name in "abc"] == [True, False, True]


@pytest.mark.parametrize("folder", ["public", "predicted"])
def test_every_real_protein_is_read(folder):
    root = REAL / folder
    if not root.is_dir():
        pytest.skip(f"needs the real proteins of {root}")
    data = _open(root, eval_fraction=0.1)
    with (root / "index.csv").open() as file:
        index = {row["id"]: row for row in csv.DictReader(file)}
    ids = data.train_ids + data.held_out_ids
    assert sorted(ids) == sorted(index)
    for name in ids:
        protein = data.read(name)
        assert protein.msa.shape == (int(index[name]["n_seq"]), int(index[name]["n_res"]))
        observed = protein.atom_mask[:, CA_ATOM].mean()
        assert observed == pytest.approx(float(index[name].get("coverage", 1)), abs=1e-3), name
        assert np.isfinite(protein.atom_positions).all()
        assert protein.resolution in (0.0, float(index[name].get("resolution") or 0)), name
