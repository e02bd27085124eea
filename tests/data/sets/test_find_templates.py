"""Templates from hits: along the query, the most trusted, and left out by the rules of AlphaFold 2's supplement."""

import errno
import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_hits import Row, hhr_text, random_sequence
from made_structures import mmcif_text

from evotrain.data.formats.hits import TemplateHit, read_hits
from evotrain.data.protein import CA_ATOM, GAP, RESIDUES, UNKNOWN
from evotrain.data.sets.templates import Unsuitable, find_template, find_templates
from evotrain.errors import DataError, RunError

RNG = np.random.default_rng(0)
SEQUENCE = random_sequence(RNG, 60)
QUERY = random_sequence(RNG, 60)


def _write(directory, entry="1abc", sequence=SEQUENCE, released="", **options):
    chains = sequence if isinstance(sequence, dict) else {"A": sequence}
    path = directory / f"{entry}.cif"
    path.write_text(mmcif_text(chains, released, **options))
    return path


def _hit(start=5, end=45, *, sequence=SEQUENCE, name="1abc_A", columns=None, sum_probs=10.0):
    """Residues start … end - 1 of the sequence, aligned to the query's first."""
    stretch = sequence[start:end]
    places = np.arange(len(stretch), dtype=np.int32)
    entry, chain = name.split("_")
    return TemplateHit(
        pdb_id=entry,
        chain=chain,
        aligned_columns=len(stretch) if columns is None else columns,
        sum_probs=sum_probs,
        sequence=stretch,
        query_places=places,
        places=places,
    )


def _find(directory, *hits, query=QUERY, before=None, own_entry=None):
    """The templates, and why other hits are none."""
    skipped = Counter()
    for hit in hits:
        try:
            find_template(query, hit, directory, before=before, own_entry=own_entry)
        except Unsuitable as reason:
            skipped[str(reason)] += 1
        except DataError:
            skipped["with a structure that cannot be read"] += 1
    return find_templates(query, hits, directory, before=before, own_entry=own_entry), dict(skipped)


def _letters(found, index=0):
    return "".join(f"{RESIDUES}X-"[code] for code in found.aatype[index])


def _residues(found, index=0):
    """Which residue of its chain stands at each place of the query, by the made-up coordinates; -1 for none."""
    observed = found.atom_mask[index, :, CA_ATOM] > 0
    return np.where(observed, np.round(found.atom_positions[index, :, CA_ATOM, 0] / 3.8), -1).astype(int).tolist()


def test_a_template_lies_along_the_query(tmp_path):
    _write(tmp_path, missing={"A": {7, 8}})
    found, skipped = _find(tmp_path, _hit())
    assert not skipped
    assert _letters(found) == SEQUENCE[5:45] + "-" * 20
    assert _residues(found) == [5, 6, -1, -1, *range(9, 45), *[-1] * 20]
    assert (found.aatype[0, 40:] == GAP).all()
    assert not found.atom_positions[found.atom_mask == 0].any()
    assert (found.aatype.dtype, found.atom_positions.dtype, found.atom_mask.dtype) == (np.int32, np.float32, np.float32)


@pytest.mark.parametrize("name", ["1abc.cif", "1abc.cif.gz", "ab/1abc.cif.gz"])
def test_where_structures_are_looked_up(tmp_path, name):
    text = _write(tmp_path).read_bytes()
    (tmp_path / "1abc.cif").unlink()
    (tmp_path / "ab").mkdir()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    found, skipped = _find(tmp_path, _hit(), _hit(name="2abc_A"))
    assert len(found.aatype) == 1
    assert skipped == {"without a structure": 1}


@pytest.mark.parametrize("method", ["stat", "read_bytes"])
def test_a_structure_that_the_disk_does_not_give_is_not_left_out(tmp_path, monkeypatch, method):
    _write(tmp_path)

    def fail(path, *args, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, method, fail)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(RunError, match=r"1abc\.cif: cannot be read, in 3 attempts"):
        _find(tmp_path, _hit())


def test_no_templates(tmp_path):
    assert _find(tmp_path) == (None, {})
    assert _find(tmp_path, _hit()) == (None, {"without a structure": 1})


def test_the_most_trusted_twenty(tmp_path):
    _write(tmp_path)
    order = np.random.default_rng(0).permutation(30)
    hits = [_hit(int(i), 40, sum_probs=float(i)) for i in order]
    found, skipped = _find(tmp_path, *hits)
    assert [_residues(found, row)[0] for row in range(20)] == list(range(29, 9, -1))
    assert not skipped
    found, _ = _find(tmp_path, *[replace(hit, sum_probs=None) for hit in hits])  # hmmsearch's
    assert [_residues(found, row)[0] for row in range(20)] == order[:20].tolist()


def test_copies_of_a_chain_are_one_template_of_hmmsearch(tmp_path):
    _write(tmp_path, sequence={"A": SEQUENCE, "B": SEQUENCE})
    copies = [_hit(name="1abc_A"), _hit(name="1abc_B"), _hit(6, 45)]
    assert len(_find(tmp_path, *copies)[0].aatype) == 3
    found, _ = _find(tmp_path, *[replace(hit, sum_probs=None) for hit in copies])
    assert [_residues(found, row)[0] for row in range(len(found.aatype))] == [5, 6]


def test_released_before_a_day(tmp_path):
    _write(tmp_path, "1abc", released="2010-05-05")
    _write(tmp_path, "2abc")
    late = {"released too late, or on a day that its file does not tell": 1}
    assert _find(tmp_path, _hit(), before="2010-05-05") == (None, late)
    assert _find(tmp_path, _hit(), before="2010-05-06")[1] == {}
    assert _find(tmp_path, _hit(name="2abc_A"), before="2010-05-06") == (None, late)
    assert _find(tmp_path, _hit(name="2abc_A"))[1] == {}


def test_the_own_entry(tmp_path):
    _write(tmp_path)
    _write(tmp_path, "pdb_00001abc")
    for pdb_id in ("1abc", "pdb_00001abc"):
        hit = replace(_hit(), pdb_id=pdb_id)
        for own_entry in ("1abc", "1ABC", "pdb_00001abc", "PDB_00001ABC"):
            assert _find(tmp_path, hit, own_entry=own_entry) == (None, {"of the protein's own entry": 1})
        for other in ("2abc", "pdb_00002abc", "pdb_10001abc"):
            assert _find(tmp_path, hit, own_entry=other)[1] == {}


def test_more_than_a_tenth_of_the_query_is_aligned(tmp_path):
    _write(tmp_path)
    assert _find(tmp_path, _hit(columns=6)) == (None, {"aligned to too little of the query": 1})
    assert _find(tmp_path, _hit(columns=7))[1] == {}


def test_at_least_ten_residues(tmp_path):
    _write(tmp_path)
    assert _find(tmp_path, _hit(0, 9)) == (None, {"of too few residues": 1})
    assert _find(tmp_path, _hit(0, 10))[1] == {}


def test_a_copy_of_most_of_the_query(tmp_path):
    _write(tmp_path)
    assert _find(tmp_path, _hit(0, 58), query=SEQUENCE) == (None, {"a copy of the query": 1})
    assert _find(tmp_path, _hit(0, 57), query=SEQUENCE)[1] == {}  # 95 %
    changed = SEQUENCE[:30] + ("A" if SEQUENCE[30] != "A" else "C") + SEQUENCE[31:]
    assert _find(tmp_path, _hit(0, 60), query=changed)[1] == {}


def test_chains_by_name_then_by_sequence_then_with_unknown_residues(tmp_path):
    other = random_sequence(np.random.default_rng(3), 60)
    _write(tmp_path, "1abc", {"A": SEQUENCE, "B": SEQUENCE, "C": other})

    def chain(hit, directory=tmp_path):
        found, _ = _find(directory, hit)
        return "ABC"[round(found.atom_positions[0, 0, CA_ATOM, 1] / 50) - 1]

    assert chain(_hit(name="1abc_B")) == "B"
    assert chain(_hit(name="1abc_C")) == "A"  # renamed
    assert chain(_hit(name="1abc_.")) == "A"
    unknown = SEQUENCE[:10] + "X" + SEQUENCE[11:]
    assert chain(_hit(name="1abc_B", sequence=unknown)) == "B"
    assert chain(_hit(name="1abc_C", sequence=unknown)) == "A"
    assert chain(_hit(name="1abc_C", sequence=other[:9] + "X" + other[10:])) == "C"
    found, _ = _find(tmp_path, _hit(sequence=unknown))
    assert found.aatype[0, 5] == UNKNOWN  # as the hit has it
    _write(tmp_path, "2abc", {"A": other, "B": unknown})
    assert chain(_hit(name="2abc_A")) == "B"


def test_a_chain_that_has_changed_is_realigned(tmp_path):
    changed = "GSHM" + SEQUENCE[:20] + "WW" + SEQUENCE[20:30] + SEQUENCE[32:50] + SEQUENCE[54:]
    _write(tmp_path, sequence=changed)
    found, skipped = _find(tmp_path, _hit(0, 50))
    assert not skipped
    expected = [*range(4, 24), *range(26, 36), -1, -1, *range(36, 54)]
    assert _residues(found)[:50] == expected
    assert _letters(found)[:50] == "".join(changed[i] if i >= 0 else "-" for i in expected)


def test_a_realigned_chain_is_nine_tenths_the_same(tmp_path):
    letters = list(SEQUENCE)
    for count, place in enumerate(range(3, 58, 9), 1):  # 7 places
        letters[place] = "A" if letters[place] != "A" else "C"
        _write(tmp_path, f"{count}abc", "".join(letters))
    for count in range(1, 8):
        found, skipped = _find(tmp_path, _hit(0, 60, name=f"{count}abc_A"))
        if count <= 6:
            assert _residues(found) == list(range(60))
        else:
            assert (found, skipped) == (None, {"of another sequence than its structure": 1})


def test_a_renamed_chain_is_realigned_only_if_there_is_no_other(tmp_path):
    changed = SEQUENCE[:10] + ("A" if SEQUENCE[10] != "A" else "C") + SEQUENCE[11:]
    _write(tmp_path, "1abc", {"B": changed})
    _write(tmp_path, "2abc", {"B": changed, "C": changed})
    assert _find(tmp_path, _hit())[1] == {}
    assert _find(tmp_path, _hit(name="2abc_A")) == (None, {"of a chain that its structure does not have": 1})


def test_structures_that_cannot_be_used(tmp_path):
    _write(tmp_path, "1abc", shift=140.0)
    _write(tmp_path, "2abc", shift=160.0)
    _write(tmp_path, "3abc", missing={"A": set(range(5, 45))})
    (tmp_path / "4abc.cif").write_text("no mmCIF")
    found, skipped = _find(tmp_path, *[_hit(name=f"{i}abc_A") for i in range(1, 5)])
    assert len(found.aatype) == 1
    assert skipped == {
        "with a chain torn apart": 1,
        "without coordinates where it is aligned": 1,
        "with a structure that cannot be read": 1,
    }


def test_a_hit_without_aligned_columns(tmp_path):
    path = tmp_path / "hits.hhr"
    path.write_text(hhr_text(60, [Row("1ABC_A", "", 1, "", 1)]))
    assert _find(tmp_path, *read_hits(path, QUERY)) == (None, {"aligned to too little of the query": 1})
