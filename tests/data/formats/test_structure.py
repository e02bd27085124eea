import random

import numpy as np
import pytest
from made_chains import SEQUENCE, THREE, mmcif, pdb_chain, pdb_residue, seqres, write

from evotrain.data.formats.structure import read_chain
from evotrain.data.protein import CA_ATOM
from evotrain.errors import DataError
from evotrain.residues import ATOM_INDEX


def _places(chain):
    """Where along the made-up chain, in residues, the Cα of each residue of the query is."""
    return chain.atom_positions[:, CA_ATOM, 0] / 3.8


def _observed(chain):
    return np.flatnonzero(chain.atom_mask.any(1)).tolist()


@pytest.mark.parametrize("name", ["structure.pdb", "structure.pdb.gz"])
def test_atoms_of_a_file_without_header_elements_and_serials(tmp_path, name):
    path = write(tmp_path, "FoldX generated pdb file\n\nRepairPDB\n" + pdb_chain(SEQUENCE), name)
    chain = read_chain(path, None, SEQUENCE)
    assert chain.atom_positions.dtype == chain.atom_mask.dtype == chain.b_factor.dtype == np.float32
    assert chain.atom_positions.shape == (10, 37, 3)
    assert chain.atom_mask.shape == (10, 37)
    np.testing.assert_allclose(_places(chain), np.arange(10), atol=1e-3)
    np.testing.assert_allclose(chain.atom_positions[2, ATOM_INDEX["CB"]], [7.6, -1, 1], atol=1e-3)
    np.testing.assert_array_equal(chain.atom_mask.sum(1), [5, 5, 5, 5, 5, 5, 5, 5, 4, 4])
    np.testing.assert_array_equal(chain.b_factor, np.full(10, 20))
    assert not chain.atom_positions[chain.atom_mask == 0].any()
    assert (chain.resolution, chain.release_date) == (0.0, "")


def test_unobserved_residues_are_found_where_the_chain_is_broken(tmp_path):
    # Letters alone cannot tell which G of the stretch is observed before the break and which after it.
    query = "MKLAGGGGGGVESTD"
    present = [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13]
    text = "".join(pdb_residue(query[i], 100 + row, i) for row, i in enumerate(present))
    chain = read_chain(write(tmp_path, text), "A", query)
    assert _observed(chain) == present
    np.testing.assert_allclose(_places(chain)[present], present, atol=1e-3)


def test_the_full_sequence_tells_where_a_closed_loop_is_unobserved(tmp_path):
    """The ends of the loop are as near as neighbours, so that no break shows."""
    query = "MKLAGGGGGGVESTD"
    present = [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13]
    shown = "".join(letter if i in present else "-" for i, letter in enumerate(query))
    text = mmcif(("A", "A", shown), full=query)
    for i in present[5:]:
        text = text.replace(f" {3.8 * i:.1f} ", f" {3.8 * (i - 3):.1f} ")
    chain = read_chain(write(tmp_path, text, "a.cif"), "A", query)
    assert _observed(chain) == present
    np.testing.assert_allclose(_places(chain)[present], np.arange(len(present)), atol=1e-3)


@pytest.mark.parametrize("form", ["cif", "pdb"])
def test_a_query_of_observed_residues_only(tmp_path, form):
    full = "MKLAGGWGGGVESTD"
    shown = "MKLAG---GGVEST-"
    if form == "cif":
        text = mmcif(("A", "A", shown), full=full)
    else:
        text = seqres([THREE[letter] for letter in full])
        text += "".join(pdb_residue(letter, i + 1, i) for i, letter in enumerate(shown) if letter != "-")
    path = write(tmp_path, text, f"a.{form}")
    present = [i for i, letter in enumerate(shown) if letter != "-"]
    for query in ("MKLAGGGVEST", "MKLAGGGLEST"):  # the latter with a mutation
        chain = read_chain(path, "A", query)
        np.testing.assert_allclose(_places(chain), present, atol=1e-3)
    chain = read_chain(path, "A", full)
    assert _observed(chain) == present


def test_a_sequence_of_another_protein_in_the_header_does_no_harm(tmp_path):
    text = seqres(["TRP", "TYR"] * 9) + pdb_chain(SEQUENCE)
    chain = read_chain(write(tmp_path, text), "A", "WW" + SEQUENCE)
    np.testing.assert_allclose(_places(chain)[2:], np.arange(10), atol=1e-3)


def test_a_stretch_that_the_chain_lacks_and_one_that_the_query_lacks(tmp_path):
    spliced = SEQUENCE[:4] + "WYFW" + SEQUENCE[4:]
    full = "HHHHHH" + SEQUENCE * 3
    path = write(tmp_path, mmcif(("A", "A", full), full=full), "a.cif")
    chain = read_chain(path, "A", SEQUENCE + spliced + SEQUENCE)
    places = [*range(6, 20), *range(20, 36)]
    assert _observed(chain) == [*range(14), *range(18, 34)]
    np.testing.assert_allclose(_places(chain)[_observed(chain)], places, atol=1e-3)


def test_residues_beyond_the_query_are_dropped_and_missing_ends_masked(tmp_path):
    path = write(tmp_path, pdb_chain("HHHH" + SEQUENCE))
    chain = read_chain(path, "A", SEQUENCE + "WWW")
    np.testing.assert_allclose(_places(chain)[:10], np.arange(4, 14), atol=1e-3)
    np.testing.assert_array_equal(chain.atom_mask.any(1), [True] * 10 + [False] * 3)


def _sentence(path, chain=None, query=SEQUENCE):
    with pytest.raises(DataError) as caught:
        read_chain(path, chain, query)
    return str(caught.value)


def test_a_structure_of_another_protein(tmp_path):
    path = write(tmp_path, pdb_chain(SEQUENCE))
    assert _sentence(path, "A", "MKLWVWSTGG") == (
        f"{path}: the chain's sequence does not match the query of the alignment "
        f"(80.0 % of 10 aligned residues and gaps agree, 90 % are needed); check the chain column of index.csv."
    )
    assert read_chain(path, "A", "MKLXVXSTGG").atom_mask.any(1).all()  # unknown residues contradict nothing


@pytest.mark.parametrize("form", ["pdb", "cif"])
def test_a_short_query_is_not_found_scattered_over_a_long_chain(tmp_path, form):
    generator = random.Random(0)
    long, short = ("".join(generator.choice("ARNDCQEGHILKMFPSTWYV") for _ in range(length)) for length in (800, 60))
    text = pdb_chain(long) if form == "pdb" else mmcif(("A", "A", long[:500] + "-" * 9 + long[509:]), full=long)
    path = write(tmp_path, text, f"a.{form}")
    assert "does not match the query" in _sentence(path, "A", short)
    assert read_chain(path, "A", long[300:360]).atom_mask.any(1).all()
    spliced = long[300:330] + long[345:375]  # a query without a loop of the structure
    np.testing.assert_allclose(_places(read_chain(path, "A", spliced))[30:], np.arange(345, 375), atol=1e-3)
