import gzip

import numpy as np
import pytest

from evotrain.data.formats.alignment import encode, letters
from evotrain.data.queries import find_queries
from evotrain.errors import DataError

A3M = ">q1 first\nARNDA\n>hit\nAR-DaaA\n"
FASTA = ">sp|P1|ONE_X protein\nARND\ncqe*\n\n>two\nGGG\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("file", ["T1.a3m", "T1.a3m.gz", "T1/msa.a3m", "T1/msa.a3m.gz"])
def test_an_alignment_is_named_after_its_file_or_folder(tmp_path, file):
    (query,) = find_queries(write(tmp_path / file, A3M))
    assert query.name == "T1"
    protein = query.load()
    assert letters(protein.msa[0]) == "ARNDA"
    np.testing.assert_array_equal(protein.deletions, [[0, 0, 0, 0, 0], [0, 0, 0, 0, 2]])
    assert protein.atom_positions.shape == (5, 37, 3)
    assert not protein.atom_mask.any()
    np.testing.assert_array_equal(protein.residue_index, np.arange(5))
    assert protein.templates is None


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("T1.sto", "# STOCKHOLM 1.0\nq1 AR.NDA\nhit AR.-DA\n//\n"),
        ("T1/msa.sto.gz", "# STOCKHOLM 1.0\nq1 AR.NDA\nhit AR.-DA\n//\n"),
        ("T1.a2m", ">q1\nAR.NDA\n>hit\nARk-DA\n"),
        ("T1.fasta", ">q1\nAR-NDA\n>hit\nARK-DA\n"),
    ],
)
def test_alignments_of_other_formats(tmp_path, file, text):
    (query,) = find_queries(write(tmp_path / file, text))
    assert query.name == "T1"
    assert [letters(row) for row in query.load().msa] == ["ARNDA", "AR-DA"]


@pytest.mark.parametrize("file", ["x.fasta", "x.fa", "x.faa.gz"])
def test_each_sequence_of_a_fasta_file_is_a_query(tmp_path, file):
    one, two = find_queries(write(tmp_path / file, FASTA))
    assert (one.name, two.name) == ("sp_P1_ONE_X", "two")
    np.testing.assert_array_equal(one.load().msa, encode("ARNDCQE")[None])
    np.testing.assert_array_equal(two.load().msa, encode("GGG")[None])
    assert two.load().deletions.shape == (1, 3)


def test_a_sequence_without_a_name_has_that_of_its_file(tmp_path):
    (query,) = find_queries(write(tmp_path / "T1.fasta", ">\nARND\n"))
    assert query.name == "T1"


def test_a_directory_stands_for_its_files_and_alignments_of_folders(tmp_path):
    write(tmp_path / "b.a3m", A3M)
    write(tmp_path / "a.fasta", FASTA)
    write(tmp_path / "c" / "msa.a3m.gz", A3M)
    write(tmp_path / "c" / "structure.cif.gz", "")
    write(tmp_path / "d" / "other.a3m", A3M)
    write(tmp_path / "e.sto", "# STOCKHOLM 1.0\nq1 ARNDA\n//\n")
    write(tmp_path / "index.csv", "")
    assert [query.name for query in find_queries(tmp_path)] == ["b", "c", "e", "sp_P1_ONE_X", "two"]


def test_templates_beside_an_alignment_are_read(tmp_path):
    path = write(tmp_path / "T1" / "msa.a3m", A3M)
    arrays = {
        "template_aatype": np.zeros((2, 5), np.int32),
        "template_all_atom_positions": np.zeros((2, 5, 37, 3), np.float32),
        "template_all_atom_masks": np.ones((2, 5, 37), np.float32),
    }
    np.savez(path.with_name("templates.npz"), **arrays)
    (query,) = find_queries(path)
    assert query.load().templates.aatype.shape == (2, 5)


def test_a_broken_alignment_is_found_when_it_is_read(tmp_path):
    (query,) = find_queries(write(tmp_path / "T1.a3m", ""))
    with pytest.raises(DataError, match="T1.a3m: the file is empty"):
        query.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.fasta: the file is empty; it needs at least a sequence: '>name' and its sequence."),
        ("ARND\n", "x.fasta, line 1: the file starts with '>name' of a sequence, not with this."),
        (
            ">a\nAR\nN-D\n",
            "x.fasta, line 3: '-' is no residue; the rows of an alignment must be equally long, unless the file's name "
            "ends in .a3m.",
        ),
        (">a\nARND\n>b\nA-D\n", "x.fasta, line 4: '-' is no residue"),
        (">a\nA*R\n", "x.fasta, line 2: '*' is no residue"),
        (">a\nAR\n>b\n*\n", "x.fasta, line 3: the sequence 'b' is empty; write its residues or leave it out."),
        (">a\nAR\n>a\nAR\n", "x.fasta: two queries are called a, and one would overwrite the other; rename one."),
    ],
    ids=["empty", "no name", "gap", "ragged", "stop", "no residues", "twice"],
)
def test_what_is_no_fasta_file(tmp_path, text, message):
    with pytest.raises(DataError) as error:
        find_queries(write(tmp_path / "x.fasta", text))
    assert message in str(error.value)


def test_what_is_no_query(tmp_path):
    with pytest.raises(DataError, match=r"nothing: no such file or directory \(it would be /"):
        find_queries(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"x.txt: is it an alignment or sequences\? Give it a name that ends in"):
        find_queries(write(tmp_path / "x.txt", FASTA))
    with pytest.raises(DataError, match="holds nothing to predict; put files"):
        find_queries(tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"), [("../../x", "_.._x"), ("sp|a:c", "sp_a_c"), (".", "query"), ("é" * 200, "é" * 100)]
)
def test_names_are_safe_for_folders(tmp_path, name, folder):
    (query,) = find_queries(write(tmp_path / "x.fasta", f">{name}\nARND\n"))
    assert query.name == folder
