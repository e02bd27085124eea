import gzip
import random

import numpy as np
import pytest

from evotrain.data.formats.alignment import encode, letters, read_a3m
from evotrain.data.protein import GAP, UNKNOWN
from evotrain.errors import DataError


def _write(path, text):
    path.write_bytes(text.encode("latin-1"))
    return path


def test_insertions_become_deletion_counts_left_of_the_next_column(tmp_path):
    path = _write(tmp_path / "msa.a3m", ">query\nARND\n>hit/1-9 description\nkkA-crND\n>end\nARNDww\n")
    names, msa, deletions = read_a3m(path)
    assert names == ["query", "hit/1-9", "end"]
    assert msa.dtype == np.uint8
    assert deletions.dtype == np.int32
    np.testing.assert_array_equal(msa, [[0, 1, 2, 3], [0, GAP, 2, 3], [0, 1, 2, 3]])
    np.testing.assert_array_equal(deletions, [[0, 0, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]])


def test_letters_beyond_the_twenty_are_read_as_hhblits_reads_them(tmp_path):
    _, msa, _ = read_a3m(_write(tmp_path / "msa.a3m", ">q\nBZUJOX\n"))
    assert letters(msa[0]) == "DECXXX"
    np.testing.assert_array_equal(msa[0, 3:], UNKNOWN)


def test_every_letter_as_alphafold_maps_it():
    constants = pytest.importorskip("alphafold.common.residue_constants")
    for letter, code in constants.HHBLITS_AA_TO_ID.items():
        assert encode(letter)[0] == constants.MAP_HHBLITS_AATYPE_TO_OUR_AATYPE[code] or letter == "-"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_blank_lines_comments_nul_bytes_and_wrapped_rows(tmp_path, end):
    text = end.join(["#4\t1", ">q", "AR", "ND", "", ">h", "--kND", "\0>q", "ARND", "\0"])
    names, msa, deletions = read_a3m(_write(tmp_path / "msa.a3m", text))
    assert names == ["q", "h", "q"]
    assert [letters(row) for row in msa] == ["ARND", "--ND", "ARND"]
    assert deletions.sum() == 1
    assert deletions[1, 2] == 1


def test_a2m_padding_is_no_residue(tmp_path):
    _, msa, deletions = read_a3m(_write(tmp_path / "msa.a3m", ">q\nA..R\n>h\nAk.R\n"))
    assert msa.shape == (2, 2)
    np.testing.assert_array_equal(deletions, [[0, 0], [0, 1]])


def test_gzip_whatever_the_name(tmp_path):
    path = tmp_path / "msa.a3m"
    path.write_bytes(gzip.compress(b">q\nARND\n"))
    assert letters(read_a3m(path)[1][0]) == "ARND"


def test_equals_a_letter_by_letter_reading(tmp_path):
    generator = random.Random(0)
    rows = ["".join(generator.choice("ARNDCQEGHILKMFPSTWYV") for _ in range(40))]
    for _ in range(50):
        row = "".join(generator.choice("ARND-") + "k" * generator.choice((0, 0, 0, 1, 3)) for _ in range(40))
        rows.append("k" * generator.choice((0, 2)) + row)
    text = "".join(f">{i}\n{row}\n" for i, row in enumerate(rows))
    _, msa, deletions = read_a3m(_write(tmp_path / "msa.a3m", text))
    for row, codes, counts in zip(rows, msa, deletions, strict=True):
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
        ("", "msa.a3m: the file is empty; an a3m needs at least the query: '>name' and its sequence."),
        ("#4\t1\n\n", "the file is empty"),
        (">q\n>h\nARND\n", "line 1: the first row is no query, for it has no residues"),
        (">q\n", "line 1: the first row is no query, for it has no residues"),
        ("\n>q\nAR-D\n", "line 2: the first row is no query, for it has gaps"),
        (">q\nARnD\n", "line 1: the first row is no query, for it has lower-case letters"),
        (">q\nARND\n>h\nARND\n>i j\nARN\n", "line 5: row 'i' has 3 aligned columns, but the query has 4."),
        (">q\nARND\n>h\n>i\nARND\n", "line 3: row 'h' has 0 aligned columns, but the query has 4."),
        (">q\nARND\n>h\nAR\nN4\n", "line 5: '4' is neither a residue nor a gap."),
        (">q\nARND\n>h\nAR ND\n", "line 4: ' ' is neither a residue nor a gap."),
        ("ARND\n>q\nARND\n", "line 1: an a3m file starts with '>name' of the query, not with this."),
    ],
)
def test_a_file_that_is_no_alignment_is_answered_with_file_and_line(tmp_path, text, sentence):
    with pytest.raises(DataError) as caught:
        read_a3m(_write(tmp_path / "msa.a3m", text))
    assert str(caught.value).startswith(f"{tmp_path / 'msa.a3m'}")
    assert sentence in str(caught.value)


def test_a_nul_byte_does_not_shift_the_line_number(tmp_path):
    with pytest.raises(DataError, match=r"line 4: '\*' is neither"):
        read_a3m(_write(tmp_path / "msa.a3m", ">q\nARND\n\0>h\nARN*\n"))


def test_missing_and_truncated_files(tmp_path):
    with pytest.raises(DataError, match=r"msa\.a3m: no such file"):
        read_a3m(tmp_path / "msa.a3m")
    path = tmp_path / "msa.a3m.gz"
    path.write_bytes(gzip.compress(b">q\nARND\n" * 100)[:-10])
    with pytest.raises(DataError, match=r"msa\.a3m\.gz: cannot be read \(.*\); copy the file again"):
        read_a3m(path)
