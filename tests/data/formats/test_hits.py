"""Lists of template hits: equal to AlphaFold's reading of hhr and of hmmsearch's Stockholm, and refused if damaged."""

import gzip

import numpy as np
import pytest
from made_hits import Row, hhr_text, random_row, random_sequence, random_stockholm_row, stockholm_text

from evotrain.data.formats.hits import read_hits
from evotrain.errors import DataError

QUERY = "MKLAVESTGGHHWQ"
PLAIN = Row("1ABC_A", "LAVESTGGHH", 3, "IAVDSTGG-H", 7)


def _write(tmp_path, text, name="hits"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def _sentence(path, query=QUERY):
    with pytest.raises(DataError) as caught:
        read_hits(path, query)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def _pairs(hit):
    return dict(zip(hit.query_places.tolist(), hit.places.tolist(), strict=True))


def _assert_equal(found, expected, query):
    """Ours and those of AlphaFold's parser."""
    templates = pytest.importorskip("alphafold.data.templates")
    assert len(found) == len(expected)
    for hit, theirs in zip(found, expected, strict=True):
        assert (hit.pdb_id, hit.chain) == templates._get_pdb_id_and_chain(theirs)
        assert (hit.aligned_columns, hit.sum_probs) == (theirs.aligned_cols, theirs.sum_probs)
        assert hit.sequence == theirs.hit_sequence.replace("-", "")
        assert _pairs(hit) == templates._build_query_to_hit_index_mapping(
            theirs.query, theirs.hit_sequence, theirs.indices_hit, theirs.indices_query, query
        )
        assert hit.query_places.dtype == hit.places.dtype == np.int32


def test_a_real_hhr_is_read_as_alphafold_does(realdata):
    parsers = pytest.importorskip("alphafold.data.parsers")
    path = realdata.parent / "odd/alignments/of73_pdb70_hits.hhr.gz"
    query = "MAAHKGAEHHHKAAEHHEQAAKHHHAAAEHHEKGEHEQAAHHADTAYAHHKHAEEHAAQAAKHDAEHHAPKPH"
    hits = read_hits(path, query)
    assert [f"{hit.pdb_id}_{hit.chain}" for hit in hits[:3]] == ["1hf9_B", "2crb_A", "4zey_A"]
    _assert_equal(hits, parsers.parse_hhr(gzip.decompress(path.read_bytes()).decode()), query)


@pytest.mark.parametrize("seed", range(4))
def test_made_up_hhr_with_gaps_and_blocks(tmp_path, seed):
    parsers = pytest.importorskip("alphafold.data.parsers")
    rng = np.random.default_rng(seed)
    query = random_sequence(rng, 230)
    rows = [random_row(rng, f"{i}xyz_{'AaB7'[i % 4]}", query, random_sequence(rng, 190), i) for i in range(1, 9)]
    text = hhr_text(230, rows)
    hits = read_hits(_write(tmp_path, text, "pdb70_hits.hhr.gz"), query)
    _assert_equal(hits, parsers.parse_hhr(text), query)
    assert any(len(hit.places) < len(hit.sequence) for hit in hits)


@pytest.mark.parametrize("seed", range(4))
def test_made_up_stockholm_of_hmmsearch(tmp_path, seed):
    parsers = pytest.importorskip("alphafold.data.parsers")
    rng = np.random.default_rng(seed)
    columns = rng.random(330) < 0.8
    query = random_sequence(rng, int(columns.sum()))
    rows = []
    for i in range(1, 9):
        molecule = "na" if i == 5 else "protein"
        name = f"{i}xyz_{'AaB7'[i % 4]}/{i}-{i + 90}"
        rows.append((name, f"[subseq from] mol:{molecule} length:{i + 99}  Text", random_stockholm_row(rng, columns)))
    text = stockholm_text(rows)
    a3m = parsers.convert_stockholm_to_a3m(text, remove_first_row_gaps=False)
    hits = read_hits(_write(tmp_path, text, "pdb_hits.sto"), query)
    _assert_equal(hits, parsers.parse_hmmsearch_a3m(query, a3m, skip_first=False), query)
    assert len(hits) == 7
    assert any(len(hit.places) < len(hit.sequence) for hit in hits)


def test_a_hit_may_start_with_residues_beside_the_profile(tmp_path):
    rows = [("1abc_A/4-9", "[subseq from] mol:protein length:9", "-.ghKL--...VESt" + "-" * 6)]
    (hit,) = read_hits(_write(tmp_path, stockholm_text(rows)), QUERY)
    assert hit.sequence == "GHKLVEST"
    assert _pairs(hit) == {1: 2, 2: 3, 5: 4, 6: 5, 7: 6}
    assert (hit.aligned_columns, hit.sum_probs) == (5, None)


@pytest.mark.parametrize(
    ("name", "entry"),
    [("1ABC_A", ("1abc", "A")), ("1abc_aB", ("1abc", "aB")), ("pdb_00001ABC_C", ("pdb_00001abc", "C")),
     ("AF-P01112-F1_A", ("af-p01112-f1", "A")), ("1ABC_.", ("1abc", "."))],
)  # fmt: skip
def test_entry_and_chain(tmp_path, name, entry):
    row = Row(name, PLAIN.query, PLAIN.query_start, PLAIN.hit, PLAIN.hit_start)
    (hit,) = read_hits(_write(tmp_path, hhr_text(14, [row])), QUERY)
    assert (hit.pdb_id, hit.chain) == entry
    described = [(f"{name}/1-9", "", "-" * 5 + "KLAVESTGG")]  # a database without descriptions
    (hit,) = read_hits(_write(tmp_path, stockholm_text(described)), QUERY)
    assert (hit.pdb_id, hit.chain) == entry


def test_the_query_of_another_construct(tmp_path):
    path = _write(tmp_path, hhr_text(14, [PLAIN]))
    (hit,) = read_hits(path, QUERY)
    assert hit.query_places.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 11]
    (hit,) = read_hits(path, "GSHMAS" + QUERY)
    assert hit.query_places.tolist() == [8, 9, 10, 11, 12, 13, 14, 15, 17]
    (hit,) = read_hits(path, QUERY.replace("V", "X"))  # an unknown residue was named since
    assert hit.query_places.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 11]
    twice = "LAVESTGGHH" + QUERY  # where the list says, not where the letters are first found
    (hit,) = read_hits(_write(tmp_path, hhr_text(24, [Row("1ABC_A", "LAVESTGGHH", 13, "IAVDSTGG-H", 7)])), twice)
    assert hit.query_places[0] == 12


def test_no_hits(tmp_path):
    assert read_hits(_write(tmp_path, ""), QUERY) == []
    assert read_hits(_write(tmp_path, "\n"), QUERY) == []
    assert read_hits(_write(tmp_path, hhr_text(14, [])), QUERY) == []


def test_a_hit_without_aligned_columns(tmp_path):
    text = hhr_text(14, [PLAIN, Row("2ABC_A", "", 1, "", 1)])
    first, last = read_hits(_write(tmp_path, text), QUERY)
    assert (len(first.places), len(last.places), last.sequence) == (9, 0, "")


def test_damaged_hhr(tmp_path):
    text = hhr_text(14, [PLAIN])
    assert _sentence(_write(tmp_path, text), "A" * 14) == (
        ", line 7: hit No 1 aligns residues that the query does not have; the hits of another query were put here."
    )
    assert _sentence(_write(tmp_path, text[: text.index("T 1ABC_A")])) == (
        ", line 7: hit No 1 has 10 letters of the query and 0 of the template for 9 aligned columns; the file may be "
        "cut off, copy it again."
    )
    assert _sentence(_write(tmp_path, text[: text.index("Aligned_cols")])) == (
        ", line 7: hit No 1 has no name or no line of scores; run HHsearch again."
    )
    assert _sentence(_write(tmp_path, text[: text.index("IAVDSTGG-H") + 4])) == (
        ", line 13: is no row of an alignment, which has its first residue's number, letters and its last residue's "
        "number; copy the file again."
    )
    assert _sentence(_write(tmp_path, text.replace(">1ABC_A", ">protein"))) == (
        ", line 8: hit 'protein' is not named <PDB entry>_<chain>."
    )


def test_damaged_stockholm(tmp_path):
    text = stockholm_text([("1abc_A/1-9", "mol:protein", "-" * 5 + "KLAVESTGG")])
    assert _sentence(_write(tmp_path, text), QUERY[:13]) == (
        ", line 6: hit 1abc_A/1-9 is aligned to 14 residues, but the query has 13; the hits of another query were put "
        "here."
    )
    assert "holds something else than residues and gaps" in _sentence(_write(tmp_path, text.replace("KLAV", "K*AV")))
    assert "ends without '//'" in _sentence(_write(tmp_path, text.replace("//", "")))


def test_other_files(tmp_path):
    assert _sentence(_write(tmp_path, ">1abc_A\nMKV\n")) == (
        ": is neither an hhr list, which starts with Query, nor a Stockholm alignment; give what HHsearch or hmmsearch "
        "has written."
    )
    assert _sentence(tmp_path / "absent") == ": no such file."
