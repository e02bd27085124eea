import gzip
import random

import numpy as np
import pytest

from evotrain.data.formats.alignment import (
    Alignment,
    encode,
    is_aligned_fasta,
    letters,
    merge,
    read_alignment,
    read_fasta,
)
from evotrain.data.protein import GAP, UNKNOWN
from evotrain.errors import DataError


def _write(path, text):
    path.write_bytes(text.encode("latin-1"))
    return path


def _rows(alignment):
    return [row.tobytes().decode() for row in alignment.letters]


def test_insertions_become_deletion_counts_left_of_the_next_column(tmp_path):
    path = _write(tmp_path / "msa.a3m", ">query\nARND\n>hit/1-9 description\nkkA-crND\n>end\nARNDww\n")
    alignment = read_alignment(path)
    assert alignment.names == ["query", "hit/1-9", "end"]
    assert alignment.query == "ARND"
    assert alignment.codes.dtype == np.uint8
    assert alignment.deletions.dtype == np.int32
    np.testing.assert_array_equal(alignment.codes, [[0, 1, 2, 3], [0, GAP, 2, 3], [0, 1, 2, 3]])
    np.testing.assert_array_equal(alignment.deletions, [[0, 0, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]])


def test_letters_beyond_the_twenty_are_read_as_hhblits_reads_them(tmp_path):
    alignment = read_alignment(_write(tmp_path / "msa.a3m", ">q\nBZUJOX\n"))
    assert _rows(alignment) == ["BZUJOX"]
    assert alignment.query == "DECXXX"
    np.testing.assert_array_equal(alignment.codes[0, 3:], UNKNOWN)


def test_every_letter_as_alphafold_maps_it():
    constants = pytest.importorskip("alphafold.common.residue_constants")
    for letter, code in constants.HHBLITS_AA_TO_ID.items():
        assert encode(letter)[0] == constants.MAP_HHBLITS_AATYPE_TO_OUR_AATYPE[code] or letter == "-"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_blank_lines_comments_nul_bytes_and_wrapped_rows(tmp_path, end):
    text = end.join(["#4\t1", ">q", "AR", "ND", "", ">h", "--kND", "\0>q", "ARND", "\0"])
    alignment = read_alignment(_write(tmp_path / "msa.a3m", text))
    assert alignment.names == ["q", "h", "q"]
    assert _rows(alignment) == ["ARND", "--ND", "ARND"]
    assert alignment.deletions.sum() == alignment.deletions[1, 2] == 1


def test_dots_of_an_a3m_are_no_residues(tmp_path):
    text = ">q\nA..R.\n>h\n.Ak.RNkk\n>i\nk-R\n"
    with pytest.raises(DataError, match="row 'h' has 3 aligned columns"):
        read_alignment(_write(tmp_path / "msa.a3m", text))
    alignment = read_alignment(_write(tmp_path / "msa.a3m", text.replace("RN", "R")))
    assert _rows(alignment) == ["AR", "AR", "-R"]
    np.testing.assert_array_equal(alignment.deletions, [[0, 0], [0, 1], [1, 0]])


@pytest.mark.parametrize(
    "text",
    [
        ">q\nAR..ND\n>h\n-RklN-\n",  # a2m
        ">q\nAR--ND\n>h\n-RKLN-\n",  # aligned FASTA
        ">q\nAR..ND\n>h\n-RKLN.\n",
        ">q\nAR\n--ND\n>h\n-RKL\nN-\n",
        ">q\nARND\n>h\n-RklN-\n",  # a3m
        ">q\nar--nd\n>h\n.rKLn.\n",  # a2m to a profile in which the query is an insertion
    ],
)
def test_equally_long_rows_are_read_column_by_column(tmp_path, text):
    alignment = read_alignment(_write(tmp_path / "msa.fasta", text))
    assert _rows(alignment) == ["ARND", "-RN-"]
    np.testing.assert_array_equal(alignment.deletions, [[0, 0, 0, 0], [0, 0, 2, 0]])


def test_gzip_whatever_the_name(tmp_path):
    path = tmp_path / "msa.a3m"
    path.write_bytes(gzip.compress(b">q\nARND\n"))
    assert read_alignment(path).query == "ARND"


def test_equals_a_letter_by_letter_reading(tmp_path):
    generator = random.Random(0)
    rows = ["".join(generator.choice("ARNDCQEGHILKMFPSTWYV") for _ in range(40))]
    for _ in range(50):
        row = "".join(generator.choice("ARND-") + "k" * generator.choice((0, 0, 0, 1, 3)) for _ in range(40))
        rows.append("k" * generator.choice((0, 2)) + row)
    text = "".join(f">{i}\n{row}\n" for i, row in enumerate(rows))
    alignment = read_alignment(_write(tmp_path / "msa.a3m", text))
    for row, codes, counts in zip(rows, alignment.codes, alignment.deletions, strict=True):
        expected, inserted = [], 0
        for letter in row:
            if letter.islower():
                inserted += 1
            else:
                expected.append((letter, inserted))
                inserted = 0
        assert list(zip(letters(codes), counts, strict=True)) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "msa.a3m: the file is empty; it needs at least the query: '>name' and its sequence."),
        ("#4\t1\n\n", "the file is empty"),
        (">q\n>h\nARND\n", "line 1: the first row is no query, for it has no residues"),
        (">q\n", "line 1: the first row is no query, for it has no residues"),
        (">q\n---\n>h\nARN\n", "line 1: the first row is no query, for it has no residues"),
        ("\n>q\nAR-D\n>h\nARN\n", "line 2: the first row is no query, for it has gaps, as only an alignment with"),
        (">q\nARnD\n>h\nARN\n", "line 1: the first row is no query, for it has lower-case letters"),
        (">q\nARnD\n>h\nARND\n", "line 1: the first row is no query, for it has lower-case letters"),
        (">q\nARND\n>h\nARND\n>i j\nARN\n", "line 5: row 'i' has 3 aligned columns, but the query has 4."),
        (">q\nARND\n>h\n>i\nARND\n", "line 3: row 'h' has 0 aligned columns, but the query has 4."),
        (">q\nARND\n>h\nAR\nN4\n", "line 5: '4' is neither a residue nor a gap."),
        (">q\nARND\n>h\nAR ND\n", "line 4: ' ' is neither a residue nor a gap."),
        (">q\nARND\n>h\nARN\xe9\n", "line 4: '\\xe9' is neither a residue nor a gap."),
        ("ARND\n>q\nARND\n", "line 1: the file starts with '>name' of the query, not with this."),
        ("#4,7\t1,1\n>101\tARND", "line 1: this alignment is of a complex of several chains; give each chain its own."),
        ("q ARND\nh A-ND\n", "this is SELEX (a name and a row on each line, without Stockholm's first line"),
        ("q ARND\n//\n", "'# STOCKHOLM 1.0'), which is not read as an alignment; convert it to a3m, a2m, aligned"),
        ("ARND\nA-ND\n", "this is PSICOV .aln (a row on each line, without names), which is not read"),
        ("CLUSTAL W\n\nq ARND\n", "this is Clustal, which is not read as an alignment; convert it to a3m"),
        (" 2 4\nq ARND\nh ARND\n", "this is PHYLIP, which is not read"),
        ("Query         q\nMatch_columns 4\n\n>1abc_A\n", "this is an HHsearch result (.hhr), which is not read"),
        ("data_1ABC\nloop_\n", "this is mmCIF, which is not read"),
    ],
)
def test_a_file_that_is_no_alignment_is_answered_with_file_and_line(tmp_path, text, sentence):
    with pytest.raises(DataError) as caught:
        read_alignment(_write(tmp_path / "msa.a3m", text))
    assert str(caught.value).startswith(f"{tmp_path / 'msa.a3m'}")
    assert sentence in str(caught.value)


def test_a_nul_byte_does_not_shift_the_line_number(tmp_path):
    with pytest.raises(DataError, match=r"line 4: '\*' is neither"):
        read_alignment(_write(tmp_path / "msa.a3m", ">q\nARND\n\0>h\nARN*\n"))


def test_missing_and_truncated_files(tmp_path):
    with pytest.raises(DataError, match=r"msa\.a3m: no such file"):
        read_alignment(tmp_path / "msa.a3m")
    path = tmp_path / "msa.a3m.gz"
    path.write_bytes(gzip.compress(b">q\nARND\n" * 100)[:-10])
    with pytest.raises(DataError, match=r"msa\.a3m\.gz: is damaged gzip \(.*\); copy the file again"):
        read_alignment(path)


def _alignment(*rows):
    deletions = np.zeros((len(rows), len(rows[0][1])), np.int32)
    deletions[:, 0] = [count for _, _, count in rows]
    return Alignment(
        [name for name, _, _ in rows], np.array([list(row.encode()) for _, row, _ in rows], np.uint8), deletions
    )


def test_merging_keeps_the_first_of_equal_rows_with_its_deletions():
    first = _alignment(("q", "ARND", 0), ("a", "A-ND", 3), ("b", "A-ND", 1))
    second = _alignment(("query", "ARND", 0), ("c", "ABND", 0), ("d", "ADND", 2), ("e", "A-ND", 0))
    merged = merge([first, second])
    assert merged.names == ["q", "a", "c", "d"]
    assert _rows(merged) == ["ARND", "A-ND", "ABND", "ADND"]  # B is another letter than D, though the same code
    np.testing.assert_array_equal(merged.deletions[:, 0], [0, 3, 0, 2])
    assert merged.deletions.dtype == np.int32
    assert merge([first]).names == ["q", "a"]


def test_merging_alignments_of_different_queries():
    other = _alignment(("p", "ARNDC", 0))
    with pytest.raises(DataError, match="different queries: 'q' with 4 residues and 'p' with 5; keep those of one"):
        merge([_alignment(("q", "ARND", 0)), other])


def test_sequences_by_themselves(tmp_path):
    names, sequences = read_fasta(_write(tmp_path / "x.fasta", ">a b\nAR\nnd*\n>c\nW\n"))
    assert names == ["a", "c"]
    assert [letters(sequence) for sequence in sequences] == ["ARND", "W"]


@pytest.mark.parametrize(
    ("text", "aligned"),
    [
        (">a\nARND\n>b\nARN\n", False),
        (">a\nARND\n>b\nARNE\n", False),  # of one length by chance
        (">a\nARND\n>b\nAR-E\n", True),
        (">a\nAR-D\n", False),
        (">a\nARND\n>b\nARk-E\n", False),
    ],
)
def test_telling_an_aligned_fasta_from_sequences(tmp_path, text, aligned):
    assert is_aligned_fasta(_write(tmp_path / "x.fasta", text)) is aligned
