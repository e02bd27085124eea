from collections import Counter

import numpy as np
import pytest
from made_proteins import SEQUENCE, STRUCTURE, add, add_index, header

from evotrain.data.protein import CA_ATOM
from evotrain.data.sets import selection
from evotrain.data.sets.raw import RawSet
from evotrain.data.sets.selection import Selection
from evotrain.data_config import ProteinSetConfig
from evotrain.errors import DataError


def _open(root, seed=0, only=None, **keys):
    return Selection(ProteinSetConfig(root=str(root), **{"eval_fraction": 0.5} | keys), seed, only)


def _sentence(root, **keys):
    with pytest.raises(DataError) as caught:
        _open(root, **keys)
    return str(caught.value)


def _shown(selection, count):
    return Counter(selection.name(i) for i in range(count))


def test_describes_what_is_used_and_what_is_left_out(tmp_path):
    add(tmp_path, *"abcd")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "msa.a3m").touch()
    add_index(tmp_path, "id,split", "a,train", " b , val", "c,Test", "d,train", "not_here,train")
    data = _open(tmp_path)
    assert (data.train_ids, data.held_out_ids) == (["a", "d"], ["b", "c"])
    assert data.description == (
        "4 proteins, 2 train, 2 held out (by split); 1 folder left out (half has no structure); "
        "1 ids of index.csv without files"
    )


def test_a_broken_protein_is_replaced_by_the_next_of_its_split(tmp_path):
    add(tmp_path, *"abcde")
    add_index(tmp_path, "id,split", "a,train", "b,train", "c,val", "d,train", "e,train")
    (tmp_path / "b" / "msa.a3m").write_text("")
    (tmp_path / "e" / "structure.pdb").write_text("")
    data = _open(tmp_path)
    data.check()
    loaded = {data.name(i): data.train(i) for i in range(4)}
    protein, skipped, note = loaded["b"]
    assert (protein.name, skipped) == ("d", 1)
    assert note.startswith(f"b: {tmp_path}/b/msa.a3m: the file is empty")
    protein, skipped, note = loaded["e"]
    assert (protein.name, skipped) == ("a", 1)
    assert note.startswith(f"e: {tmp_path}/e/structure.pdb: ")
    assert [(loaded[name].protein.name, *loaded[name][1:]) for name in "ad"] == [("a", 0, ""), ("d", 0, "")]
    assert data.evaluate(0).protein.name == "c"


def test_a_split_without_a_readable_protein(tmp_path):
    add(tmp_path, *"abc")
    add_index(tmp_path, "id,split", "a,train", "b,train", "c,val")
    for name in "ab":
        (tmp_path / name / "msa.a3m").write_text(">q\nMK1A\n")
    sentence = f"{tmp_path}: none of the 2 proteins of the split can be read; a: {tmp_path}/a/msa.a3m, line 2: "
    data = _open(tmp_path)
    with pytest.raises(DataError) as caught:
        data.check()
    assert str(caught.value).startswith(sentence)
    assert _sentence(tmp_path, weigh_length=True).startswith(sentence)


def test_filters_concern_training_alone(tmp_path):
    add(tmp_path, *"abcdef")
    for name, date, resolution in (("a", "03-MAR-95", 1.5), ("b", "03-MAR-05", 2.5), ("e", "03-MAR-05", 9.5)):
        (tmp_path / name / "structure.pdb").write_text(header(date, resolution) + STRUCTURE)
    add_index(tmp_path, "id,split", "a,train", "b,train", "c,train", "d,val", "e,val", "f,val")
    assert _open(tmp_path, max_resolution=2.0).train_ids == ["a", "c"]  # c has none
    data = _open(tmp_path, released_before="2000-01-01")
    assert data.train_ids == ["a"]
    assert data.held_out_ids == ["d", "e", "f"]
    assert data.description == "6 proteins, 3 train, of which 1 pass the filters, 3 held out (by split)"
    assert set(_shown(data, 5)) == {"a"}
    assert _sentence(tmp_path, released_before="1990-01-01", max_resolution=9.0) == (
        f"{tmp_path}: none of the 3 proteins to train on passes data.released_before=1990-01-01, "
        "data.max_resolution=9.0 (a structure without a date passes no date); loosen a filter."
    )


def test_a_protein_of_one_residue_type(tmp_path):
    add(tmp_path, *"ab")
    (tmp_path / "b" / "msa.a3m").write_text(f">q\nG{SEQUENCE[1:]}\n")
    add_index(tmp_path, "id,split", "a,train", "b,train")
    assert _open(tmp_path, max_repeat=0.3).train_ids == ["a", "b"]
    assert _open(tmp_path, max_repeat=0.2).train_ids == ["a"]


def test_what_cannot_be_read_passes_no_filter(tmp_path):
    add(tmp_path, *"abc")
    (tmp_path / "b" / "msa.a3m").write_text("")
    add_index(tmp_path, "id,split", "a,train", "b,train", "c,train")
    assert _open(tmp_path).train_ids == ["a", "b", "c"]
    data = _open(tmp_path, weigh_length=True)
    assert data.train_ids == ["a", "c"]
    assert data.description == (
        "3 proteins, 3 train, 0 held out (by split); 1 to train on could not be read (first: b: "
        f"{tmp_path}/b/msa.a3m: the file is empty; it needs at least the query: '>name' and its sequence)"
    )


def test_many_raw_proteins_must_be_prepared_to_be_filtered(tmp_path, monkeypatch):
    add(tmp_path, *"abcd")
    monkeypatch.setattr(selection, "MOST_RAW_FACTS", 3)
    monkeypatch.setattr(RawSet, "read", lambda *_: pytest.fail("a protein was read"))
    assert _sentence(tmp_path, weigh_length=True, max_resolution=9.0, eval_fraction=0.0) == (
        f"{tmp_path}: data.max_resolution=9.0, data.weigh_length=true would read the raw files of all 4 proteins at "
        "every start, and more than 3 take too long: run command=prepare first, and train on what it writes."
    )
    assert _open(tmp_path, eval_fraction=0.0).train_ids == [*"abcd"]


def test_clusters_are_weighed_by_their_members(tmp_path):
    """Those that are trained on, and pass the filters."""
    add(tmp_path, *"abcdefg")
    (tmp_path / "d" / "structure.pdb").write_text(header("03-MAR-05", 9.5) + STRUCTURE)
    split = {"a": "train", "b": "train", "c": "train", "d": "train", "e": "train", "f": "val", "g": "train"}
    cluster = {"a": "1", "b": "1", "c": "2", "d": "2", "e": "", "f": "1", "g": "1"}
    add_index(tmp_path, "id,split,cluster", *(f"{name},{split[name]},{cluster[name]}" for name in split))
    data = _open(tmp_path, weigh_cluster=True, max_resolution=9.0)
    shown = _shown(data, 6000)
    assert {name: count / shown["e"] for name, count in shown.items()} == pytest.approx(
        {"a": 1 / 3, "b": 1 / 3, "g": 1 / 3, "c": 1, "e": 1}, rel=0.01
    )


def test_clusters_that_are_not_there_cannot_be_weighed(tmp_path):
    add(tmp_path, *"ab")
    assert _sentence(tmp_path, weigh_cluster=True) == (
        f"data.weigh_cluster has nothing to weigh: give {tmp_path}/index.csv a column cluster, or write "
        "data.weigh_cluster=false."
    )


def test_facts_are_asked_for_only_where_they_matter(tmp_path, monkeypatch):
    add(tmp_path, *"abcd")
    monkeypatch.setattr(RawSet, "read", lambda *_: pytest.fail("a protein was read"))
    _open(tmp_path)


def test_residues_of_low_confidence_are_hidden(tmp_path):
    """The B-factors of the made-up Cα are 5, 15, … 95."""
    add(tmp_path, *"abc")
    data = _open(tmp_path, min_plddt=50.0, eval_fraction=0.0)
    protein, skipped, _ = data.train(0)
    assert skipped == 0
    np.testing.assert_array_equal(protein.atom_mask[:, CA_ATOM], [0] * 5 + [1] * 5)
    plain = _open(tmp_path, eval_fraction=0.0).train(0).protein
    assert plain.atom_mask[:, CA_ATOM].all()
    np.testing.assert_array_equal(protein.msa, plain.msa)
    with pytest.raises(DataError, match=r"a has no residue with a pLDDT of 99 \(data.min_plddt\)"):
        _open(tmp_path, min_plddt=99.0, eval_fraction=0.0).check()


def test_only_one_protein(tmp_path):
    add(tmp_path, *"abc")
    data = _open(tmp_path, only="b")
    assert (data.train_ids, data.held_out_ids) == (["b"], ["b"])


def test_the_fingerprint_is_of_what_decides_the_order(tmp_path):
    add(tmp_path, *"abcdefgh")
    first = _open(tmp_path).fingerprint
    assert _open(tmp_path, seed=3).fingerprint == first
    assert _open(tmp_path, min_plddt=50.0).fingerprint == first
    assert _open(tmp_path, eval_fraction=0.1).fingerprint != first
    assert _open(tmp_path, weigh_length=True).fingerprint != first
    add(tmp_path, "i")
    assert _open(tmp_path).fingerprint != first
