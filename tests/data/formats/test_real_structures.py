"""Real structures against Biopython's reading of the same files: sequence, observed atoms, coordinates and places."""

import csv
import io

import gemmi
import numpy as np
import pytest

from evotrain.data.formats.alignment import read_alignment
from evotrain.data.formats.files import read_bytes
from evotrain.data.formats.polymer import read_polymer, read_polymers
from evotrain.data.formats.structure import read_chain
from evotrain.data.protein import CA_ATOM
from evotrain.errors import DataError

pdb = pytest.importorskip("Bio.PDB")
from Bio import SeqIO  # noqa: E402
from Bio.Data.PDBData import protein_letters_3to1_extended as LETTERS  # noqa: E402

GSPF = "ISASDLALLTRQLATLVAAALPLEEALDAVAKQSEKPKLSALMAAVRAKVVEGHSLAEAMGNFPGSFERLYCAMVAAGEASGHLDAVLNRLADYTEQRQQMRSRIQQ"
RAS = (
    "MTEYKLVVVGAGGVGKSALTIQLIQNHFVDEYDPTIEDSYRKQVVIDGETCLLDILDTAGQEEYSAMRDQYMRTGEGFLCVFAINNTKSFEDIHQYREQIKRVKDSDD"
    "VPMVLVGNKCDLAARTVESRQAQDLARSYGIPYIETSAKTRQGVEDAFYTLVREIRQHKLRKLNPPDESGPGCMSCKCVLS"
)
CAPSID = "MDIRQGPKEPFRDYVDRFYKTLRAEQASQEVKNWMTETLLVQNANPDCKTILKALGPGATLEEMMTACQG"
ARGININE_REPRESSOR = "QEELVKAFKALLKEEKFSSQGEIVAALQEQGFDNINQSKVSRMLTKFGAVRTRNAKMEMVYCLPAELGV"
LAC_REPRESSOR = "MKPVTLYDVAEYAGVSYQTVSRVVNQASHVSAKTREKVEAAMAELNYIPNR"
# Of every specimen that can be read: its protein chains with their sequences, release date and resolution.
SPECIMENS = {
    "0099.cif.gz": ({"B": GSPF, "C": GSPF}, "1971-01-01", 0.0),
    "1a8o.cif.gz": ({"A": CAPSID}, "1998-10-14", 1.7),
    "1aoy_A_7-75_af2.pdb.gz": ({"A": ARGININE_REPRESSOR}, "", 0.0),
    "1ejg.pdb.gz": ({"A": "TTCCPSIVARSNFNVCRLPGTPEALCATYTGCIIIPGATCPGDYAN"}, "2000-04-05", 0.54),
    "1l2y_A.cif.gz": ({"A": "NLYIQWLKDGGPSSGRPPPS"}, "2002-05-29", 0.0),
    "1lcd.cif.gz": ({"A": LAC_REPRESSOR}, "1994-01-31", 0.0),
    "1pfe.cif.gz": ({"B": "SAXVSAXV"}, "2004-06-08", 1.1),
    "209d-assembly1.cif.gz": ({"C": "TVPGVTVPGV"}, "1995-10-15", 3.0),
    "2lwu.cif.gz": ({"A": "GHCIPTTSGPICLRD"}, "2013-08-21", 0.0),
    "AF-P01112-F1-model_v4.cif.gz": ({"A": RAS}, "2021-07-01", 0.0),
}
# Peptides of residues whose parents Biopython's table lacks.
EXOTIC = {"1pfe.cif.gz", "209d-assembly1.cif.gz"}


def _biopython(path):
    """By Biopython: the first model, the full sequences by chain, and the residues' places in them where numbered."""
    text = read_bytes(path).decode()
    if ".cif" not in path.name:
        records = SeqIO.parse(io.StringIO(text), "pdb-seqres")
        sequences = {record.annotations["chain"]: str(record.seq) for record in records}
        return pdb.PDBParser(QUIET=True).get_structure("x", io.StringIO(text))[0], sequences, {}
    parser = pdb.MMCIFParser(QUIET=True)
    model = parser.get_structure("x", io.StringIO(text))[0]
    table = parser._mmcif_dict
    if "_entity_poly_seq.mon_id" not in table:
        return model, {}, {}
    entities = dict(zip(table["_struct_asym.id"], table["_struct_asym.entity_id"], strict=True))
    monomers = {}
    columns = ("entity_id", "num", "mon_id")
    for entity, number, name in zip(*(table[f"_entity_poly_seq.{column}"] for column in columns), strict=True):
        monomers.setdefault(entity, {}).setdefault(int(number), LETTERS.get(name, "X"))
    sequences, places = {}, {}
    columns = ("auth_asym_id", "label_asym_id", "auth_seq_id", "pdbx_PDB_ins_code", "label_seq_id")
    for chain, label, number, insertion, place in zip(*(table[f"_atom_site.{c}"] for c in columns), strict=True):
        if place.isdigit():
            sequences[chain] = "".join(monomers[entities[label]].values())
            places[chain, int(number), insertion if insertion.isalnum() else " "] = int(place) - 1
    return model, sequences, places


def _residues(chain):
    """Amino acids of a chain of Biopython's, the most occupied where several share a position."""
    for residue in chain:
        if residue.is_disordered() == 2:
            choices = residue.disordered_get_list()
            residue = max(choices, key=lambda choice: max(atom.get_occupancy() for atom in choice))
        if residue.get_resname() in LETTERS:
            yield residue


def _compare(found, model, sequences, places):
    """A polymer with Biopython's reading: letters, Cα, its B factor, the full sequence and places in it."""
    residues = list(_residues(model[found.author_chain]))
    observed = np.flatnonzero(found.atom_mask.any(1))
    assert "".join(found.sequence[i] for i in observed) == "".join(LETTERS[r.get_resname()] for r in residues)
    has_ca = np.array(["CA" in residue for residue in residues])
    np.testing.assert_array_equal(found.atom_mask[observed, CA_ATOM], has_ca)
    ca = np.array([residue["CA"].coord for residue in residues if "CA" in residue])
    np.testing.assert_array_equal(found.atom_positions[observed[has_ca], CA_ATOM], ca.astype(np.float32))
    b_factors = [residue["CA"].bfactor for residue in residues if "CA" in residue]
    np.testing.assert_allclose(found.b_factor[observed[has_ca]], b_factors, atol=1e-4)
    full = sequences.get(found.author_chain, "".join(found.sequence[i] for i in observed))
    assert found.sequence == full
    if places:
        assert observed.tolist() == [places[(found.author_chain, *residue.id[1:])] for residue in residues]


@pytest.mark.parametrize("folder", ["predicted", pytest.param("public", marks=pytest.mark.slow)])
def test_every_protein_is_what_biopython_reads(realdata, folder):
    root = realdata.parent / folder
    with (root / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == {"public": 180, "predicted": 87}[folder]
    for row in rows:
        path = next((root / row["id"]).glob("structure.*"))
        found = read_polymer(path, row["chain"])
        _compare(found, *_biopython(path))
        query = read_alignment(root / row["id"] / "msa.a3m.gz").query
        chain = read_chain(path, row["chain"], query)
        _compare_along_query(chain, found, query, row)


def _compare_along_query(chain, polymer, query, row):
    """The placed residues are the chain's in their order, and as many as another program's alignment has placed."""
    placed = np.flatnonzero(chain.atom_mask.any(1))
    if "coverage" in row:
        assert len(placed) == round(float(row["coverage"]) * len(query))
    place, same = -1, 0
    for i in placed:
        place += 1
        while not np.array_equal(polymer.atom_positions[place], chain.atom_positions[i]):
            place += 1
        same += polymer.sequence[place] == query[i]
    assert same / len(placed) == pytest.approx(float(row["identity"]), abs=1e-4)


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_protein_chain_of_a_specimen(realdata, name):
    path = realdata.parent / "odd" / "structures" / name
    found = {polymer.author_chain: polymer for polymer in read_polymers(path)}
    sequences, release_date, resolution = SPECIMENS[name]
    assert {chain: polymer.sequence for chain, polymer in found.items()} == sequences
    assert all(polymer.atom_mask.any(1).all() for polymer in found.values())
    assert {(polymer.release_date, polymer.resolution) for polymer in found.values()} == {(release_date, resolution)}
    if name in EXOTIC:
        _compare_with_gemmi(found, gemmi.read_structure_string(read_bytes(path)))
    else:
        expected = _biopython(path)
        for polymer in found.values():
            _compare(polymer, *expected)
            chain = read_chain(path, polymer.author_chain, polymer.sequence)
            np.testing.assert_array_equal(chain.atom_positions, polymer.atom_positions)
            np.testing.assert_array_equal(chain.atom_mask, polymer.atom_mask)


def _compare_with_gemmi(found, structure):
    for name, polymer in found.items():
        chain = structure[0][name].first_conformer()
        ca = [residue.get_ca().pos.tolist() for residue in chain if residue.get_ca()]
        np.testing.assert_array_equal(polymer.atom_positions[:, CA_ATOM], np.array(ca, np.float32))


@pytest.mark.parametrize(
    ("name", "chain", "sentence"),
    [
        ("1gbt.bcif.gz", None, "is BinaryCIF, which is not read; give the same entry as mmCIF (.cif or .cif.gz)."),
        ("0099.cif.gz", None, "has several protein chains (B, C); name one in the chain column of index.csv."),
        ("209d-assembly1.cif.gz", "A", "chain 'A' holds no protein; the protein chains are C."),
        ("1pfe.cif.gz", "A", "chain 'A' holds no protein; the protein chains are B."),
        ("1lcd.cif.gz", "B", "chain 'B' holds no protein; the protein chains are A."),
        ("2lwu.cif.gz", "X", "chain 'X' is not there; the protein chains are A."),
    ],
)
def test_a_specimen_that_cannot_be_read(realdata, name, chain, sentence):
    path = realdata.parent / "odd" / "structures" / name
    with pytest.raises(DataError) as caught:
        read_polymer(path, chain)
    assert str(caught.value) == f"{path}: {sentence}"


def test_the_list_of_specimens_is_complete(realdata):
    names = {path.name for path in (realdata.parent / "odd" / "structures").iterdir()}
    assert names == {*SPECIMENS, "1gbt.bcif.gz"}


def test_selenium_is_sulphur_and_two_residues_at_one_position_are_one(realdata):
    root = realdata.parent / "odd" / "structures"
    found = read_polymer(root / "1a8o.cif.gz", "A")
    sulphur = [place for place, letter in enumerate(found.sequence) if letter == "M"]
    assert len(sulphur) == 4
    assert found.atom_mask[sulphur, 18].all()
    crambin = read_polymer(root / "1ejg.pdb.gz", "A")
    assert (crambin.sequence[21], crambin.sequence[24]) == ("P", "L")
