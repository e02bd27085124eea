import numpy as np
import pytest
from made_chains import SEQUENCE, THREE, mmcif, pdb_atom, pdb_chain, pdb_dna, pdb_residue, seqres, write

from evotrain.data.formats import polymer
from evotrain.data.formats.polymer import read_polymer, read_polymers
from evotrain.data.protein import CA_ATOM
from evotrain.errors import DataError
from evotrain.residues import ATOM_INDEX


def _places(found):
    return found.atom_positions[:, CA_ATOM, 0] / 3.8


@pytest.mark.parametrize("swapped", [False, True])
def test_the_nitrogens_of_arginine_are_named_by_the_standard(tmp_path, swapped):
    """NH1 is on Cδ's side, whatever the file says."""
    near, far = ("NH2", "NH1") if swapped else ("NH1", "NH2")
    text = pdb_chain(SEQUENCE[:3]) + pdb_residue("R", 4, 3)
    text += "".join(pdb_atom(name, "ARG", 4, (x, 5, 0)) for name, x in (("CD", 0), (near, 2.8), (far, 3.6)))
    found = read_polymer(write(tmp_path, text + pdb_chain(SEQUENCE[4:], first=5)), "A")
    assert found.sequence == "MKLRVESTGG"
    nitrogens = found.atom_positions[3, [ATOM_INDEX["NH1"], ATOM_INDEX["NH2"]], 0]
    assert nitrogens.tolist() == pytest.approx([2.8, 3.6])
    assert found.atom_mask[3].sum() == 8


@pytest.mark.parametrize(("share", "second"), [(0.3, True), (0.7, False), (0.5, False)])
def test_the_alternative_of_highest_occupancy_counts(tmp_path, share, second):
    lines = pdb_chain("KLAV", first=2)
    for name, x in (("N", 0), ("CA", 1), ("C", 2), ("SD", 3)):
        lines += pdb_atom(name, "MET", 1, (x, 2, 3), altloc="A", occupancy=share, b_factor=10)
        lines += pdb_atom(name, "MET", 1, (x, 5, 6), altloc="B", occupancy=1 - share, b_factor=30)
    found = read_polymer(write(tmp_path, _sorted(lines)), "A")
    np.testing.assert_allclose(found.atom_positions[0, ATOM_INDEX["SD"]], [3, 5, 6] if second else [3, 2, 3])
    assert found.atom_mask[0].sum() == 4
    assert found.b_factor.tolist() == [30 if second else 10, 20, 20, 20, 20]


def _sorted(text):
    """Lines in the order of their residues."""
    return "".join(sorted(text.splitlines(keepends=True), key=lambda line: int(line[22:26])))


@pytest.mark.parametrize(("share", "expected"), [(0.6, "SER"), (0.4, "PRO"), (0.5, "SER")])
@pytest.mark.parametrize("header", [False, True])
def test_of_two_residue_types_at_one_position_the_more_occupied_counts(tmp_path, share, expected, header):
    text = seqres([THREE[letter] for letter in SEQUENCE + "P"]) if header else ""
    text += pdb_chain(SEQUENCE)
    for kind, altloc, occupancy, names in (("SER", "A", share, "N CA OG"), ("PRO", "B", 1 - share, "N CA CD")):
        text += "".join(
            pdb_atom(name, kind, 11, (38, i, 0), altloc=altloc, occupancy=occupancy)
            for i, name in enumerate(names.split())
        )
    found = read_polymer(write(tmp_path, text), "A")
    assert found.sequence == SEQUENCE + {"SER": "S", "PRO": "P"}[expected]
    assert found.atom_mask[10, ATOM_INDEX["OG"]] == (expected == "SER")
    assert found.atom_mask[10, ATOM_INDEX["CD"]] == (expected == "PRO")


def test_modified_residues_count_as_their_parents(tmp_path):
    modified = [("MSE", "N CA C SE"), ("MLY", "N CA C CH2"), ("2MR", "N CA C CQ1"), ("QQQ", "N CA C CB CG")]
    text = "MODRES 1ABC 2MR A    3  ARG  N3, N4-DIMETHYLARGININE\n"
    for number, (kind, names) in enumerate(modified, 1):
        for i, name in enumerate(names.split()):
            text += pdb_atom(name, kind, number, (3.8 * number, i, 0), hetero=True)
    found = read_polymer(write(tmp_path, text + pdb_chain("KLAV", first=5)), "A")
    assert found.sequence == "MKRXKLAV"
    np.testing.assert_allclose(found.atom_positions[0, ATOM_INDEX["SD"]], [3.8, 3, 0], atol=1e-3)
    assert found.atom_mask[:4].sum(1).tolist() == [4, 3, 3, 4]  # no CH2, which is tryptophan's; no CG of an unknown one


def test_insertion_codes_are_residues_of_their_own(tmp_path):
    numbers = [(52, " "), (52, "A"), (52, "B"), (53, " "), (60, " "), (60, "P")]
    text = "".join(pdb_residue(SEQUENCE[i], *number[:1], i, insertion=number[1]) for i, number in enumerate(numbers))
    found = read_polymer(write(tmp_path, text), "A")
    assert found.sequence == SEQUENCE[:6]
    np.testing.assert_allclose(_places(found), np.arange(6), atol=1e-3)


def test_water_ligands_other_models_and_nucleic_chains_are_left_out(tmp_path):
    other = pdb_atom("O", "HOH", 201, (0, 0, 9), hetero=True) + pdb_atom("C1", "GOL", 202, (0, 0, 9), hetero=True)
    model = pdb_chain(SEQUENCE) + "TER\n" + pdb_dna() + "TER\n" + other
    shifted = pdb_chain("G" + SEQUENCE)
    path = write(tmp_path, f"MODEL        1\n{model}ENDMDL\nMODEL        2\n{shifted}ENDMDL\n")
    found = read_polymer(path, None)
    assert found.sequence == SEQUENCE
    np.testing.assert_allclose(_places(found), np.arange(10), atol=1e-3)
    assert found.atom_mask.sum() == 48
    assert [chain.author_chain for chain in read_polymers(path)] == ["A"]


def test_a_chain_of_alpha_carbons(tmp_path):
    text = "".join(pdb_atom("CA", THREE[letter], i, (3.8 * i, 0, 0)) for i, letter in enumerate(SEQUENCE, 1))
    found = read_polymer(write(tmp_path, text), None)
    assert found.sequence == SEQUENCE
    assert found.atom_mask[:, CA_ATOM].all()
    assert found.atom_mask.sum() == 10
    assert not found.breaks.any()


@pytest.mark.parametrize("form", ["cif", "pdb"])
def test_the_full_sequence_with_unobserved_residues(tmp_path, form):
    full, shown = "MKLAGGWGGGVESTX", "--LAG--GGGV-ST-"
    if form == "cif":
        text = mmcif(("B", "A", shown), full=full)
    else:
        text = seqres([THREE[letter] for letter in full])
        text += "".join(pdb_residue(letter, i + 5, i) for i, letter in enumerate(shown) if letter != "-")
    found = read_polymer(write(tmp_path, text, f"a.{form}"), None)
    assert found.sequence == full
    present = [i for i, letter in enumerate(shown) if letter != "-"]
    assert np.flatnonzero(found.atom_mask.any(1)).tolist() == present
    np.testing.assert_allclose(_places(found)[present], present, atol=1e-3)
    assert np.flatnonzero(found.breaks).tolist() == [7, 12]
    assert (found.author_chain, found.label_chain) == ("A", "B" if form == "cif" else "")


def test_the_full_sequence_of_a_file_without_entities(tmp_path):
    """As tools write for templates: chains are tied to sequences by _struct_asym alone."""
    text = mmcif(("A", "X", "--LAG--GG-"), ("B", "Y", "MKLAG--GGG"), full="MKLAGWWGGG")
    text = text.replace("_entity.id 1\n_entity.type polymer\n_entity_poly.entity_id 1\n", "")
    text = text.replace("_entity_poly.type polypeptide(L)\n", "").replace(" A 1 ", " A ? ").replace(" B 1 ", " B ? ")
    path = write(tmp_path, text + "#\nloop_\n_struct_asym.id\n_struct_asym.entity_id\nA 1\nB 1\n", "a.cif")
    assert [chain.sequence for chain in read_polymers(path)] == ["MKLAGWWGGG"] * 2
    assert np.flatnonzero(read_polymer(path, "X").atom_mask.any(1)).tolist() == [2, 3, 4, 7, 8]


def test_mmcif_by_author_name_then_by_label(tmp_path):
    path = write(tmp_path, mmcif(("A", "X", SEQUENCE), ("B", "A", "WYFWYFWYFW")), "structure.cif.gz")
    assert read_polymer(path, "X").sequence == SEQUENCE
    assert read_polymer(path, "A").sequence == "WYFWYFWYFW"  # the author's A, not the label's
    assert read_polymer(path, "B").sequence == "WYFWYFWYFW"
    assert [(chain.author_chain, chain.label_chain) for chain in read_polymers(path)] == [("X", "A"), ("A", "B")]


def test_an_atom_without_coordinates_is_not_observed(tmp_path):
    text = mmcif(("A", "A", SEQUENCE))
    assert text.count(" 11.4 0 ") == 1
    found = read_polymer(write(tmp_path, text.replace(" 11.4 0 ", " ? 0 "), "structure.cif"), "A")
    assert not found.atom_mask[3, CA_ATOM]
    assert found.atom_mask.sum() == 29
    assert np.isfinite(found.atom_positions).all()


def test_of_many_chains_only_the_one_asked_for_is_converted(tmp_path, monkeypatch):
    converted = []
    convert = polymer._coordinates
    monkeypatch.setattr(polymer, "_coordinates", lambda *args: converted.append(len(args[0])) or convert(*args))
    names = [f"{first}{second}" for first in "ABCDE" for second in "abcdefghij"]
    path = write(tmp_path, mmcif(*((name, name, "MKLA" * (5 + i)) for i, name in enumerate(names))), "large.cif.gz")
    assert len(read_polymer(path, "Bc").sequence) == 4 * 17
    assert converted == [4 * 17]


def _sentence(path, chain=None):
    with pytest.raises(DataError) as caught:
        read_polymer(path, chain)
    return str(caught.value)


def test_a_chain_that_is_not_there_or_not_named(tmp_path):
    path = write(tmp_path, pdb_chain(SEQUENCE) + "TER\n" + pdb_chain(SEQUENCE, "B") + "TER\n" + pdb_dna("D"))
    assert _sentence(path) == f"{path}: has several protein chains (A, B); name one in the chain column of index.csv."
    assert _sentence(path, "C") == f"{path}: chain 'C' is not there; the protein chains are A, B."
    assert _sentence(path, "D") == f"{path}: chain 'D' holds no protein; the protein chains are A, B."
    only_dna = write(tmp_path, pdb_dna("D"), "dna.pdb")
    assert _sentence(only_dna) == f"{only_dna}: holds no protein, only chains D."
    assert read_polymers(only_dna) == []


def test_a_chain_without_coordinates(tmp_path):
    path = write(tmp_path, mmcif(("A", "A", "M")).replace(" 0.0 1.0 ", " ? 1.0 "), "a.cif")
    assert _sentence(path) == f"{path}: chain 'A' has no atom with coordinates; take another structure."


def test_a_damaged_name(tmp_path):
    path = tmp_path / "structure.pdb"
    path.write_bytes(pdb_chain(SEQUENCE).encode().replace(b"MET", b"M\x80T"))
    assert _sentence(path).startswith(f"{path}: holds a name that is no text (")
