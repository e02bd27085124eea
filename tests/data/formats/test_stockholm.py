import numpy as np
import pytest

from evotrain.data.formats.alignment import read_alignment
from evotrain.errors import DataError


def _write(tmp_path, text):
    path = tmp_path / "msa.sto"
    path.write_text(text if text.startswith("# STOCKHOLM") else f"# STOCKHOLM 1.0\n{text}//\n")
    return path


def _rows(alignment):
    return [row.tobytes().decode() for row in alignment.letters]


def test_columns_without_a_residue_of_the_query_are_insertions(tmp_path):
    alignment = read_alignment(_write(tmp_path, "query  --AR-.ND.\nhit/2-9 KCA-KLN-W\nend  ...RKKND-\n"))
    assert alignment.names == ["query", "hit/2-9", "end"]
    assert _rows(alignment) == ["ARND", "A-N-", "-RND"]
    assert alignment.letters.dtype == np.uint8
    assert alignment.deletions.dtype == np.int32
    np.testing.assert_array_equal(alignment.deletions, [[0, 0, 0, 0], [2, 0, 2, 0], [0, 0, 2, 0]])


def test_annotation_is_passed_over(tmp_path):
    text = """
#=GF ID  x
# a comment
#=GS q   DE a protein
q        ARnd
#=GR q PP 9*.5
h        A-nD
#=GC RF  xx..
#=GR_h_IN 1
"""
    assert _rows(read_alignment(_write(tmp_path, text))) == ["ARND", "A-ND"]


@pytest.mark.parametrize("between", ["\n", "\n#=GC RF xx\n\n\n", ""])
def test_blocks_are_joined(tmp_path, between):
    alignment = read_alignment(_write(tmp_path, f"q AR\nh A-\n{between}q ND\nh N-\n{between}q -W\nh KW\n"))
    assert alignment.names == ["q", "h"]
    assert _rows(alignment) == ["ARNDW", "A-N-W"]
    np.testing.assert_array_equal(alignment.deletions, [[0] * 5, [0, 0, 0, 0, 1]])


def test_a_name_that_comes_again_within_a_block_is_another_row(tmp_path):
    alignment = read_alignment(_write(tmp_path, "q AR\nq AR\nh A-\n\nq ND\nq NE\nh --\n"))
    assert alignment.names == ["q", "q", "h"]
    assert _rows(alignment) == ["ARND", "ARNE", "A---"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# STOCKHOLM 1.0\nq ARND\n", "msa.sto: the file ends without '//', so it may be cut off; copy it again."),
        ("", "msa.sto: the alignment holds no sequence; its first row must be the query."),
        ("q ARND\n//\n# STOCKHOLM 1.0\nq ARN\n", "line 4: a second alignment starts here; keep one in a file."),
        ("q ARND\nh AR ND\n", "line 3: a row is its name and its letters, not 3 words."),
        ("q ARND\nh\n", "line 3: a row is its name and its letters, not 1 words."),
        ("q ARND\nh ARN\n", "line 3: row 'h' has 3 columns, but the block's first has 4."),
        ("q AR\nh AR\n\nq ND\nh N\n", "line 6: row 'h' has 1 columns, but the block's first has 2."),
        ("q AR\nh AR\n\nh ND\n", "line 5: row 'h' stands where 'q' of the first block is expected."),
        ("q AR\n\nq ND\nh ND\n", "line 5: row 'h' stands where the end of the block is expected."),
        ("q AR\nh AR\n\nq ND\n", "line 5: the block ends here without row 'h' of the first block."),
        ("q AR\nh AR\n\nq ND\nh N4\n", "line 6: '4' is neither a residue nor a gap."),
        ("q -.\nh AR\n", "line 2: the first row is no query, for it has no residues; put the query's sequence first."),
    ],
)
def test_a_damaged_file_is_answered_with_its_line(tmp_path, text, sentence):
    with pytest.raises(DataError) as caught:
        read_alignment(_write(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'msa.sto'}")
    assert sentence in str(caught.value)
