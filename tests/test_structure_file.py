"""The files of a prediction, read back by gemmi, by Biopython and by the project's own reader."""

import gemmi
import numpy as np
import pytest

from evotrain.data.formats.alignment import encode
from evotrain.data.formats.structure import read_chain
from evotrain.residues import ATOM37_EXISTS, ATOM_NAMES
from evotrain.structure_file import mmcif_bytes, pdb_bytes, predicted_structure

SEQUENCE = "ARNDCQEGHILKMFPSTWYVXGA"
WRITERS = {"cif": mmcif_bytes, "pdb": pdb_bytes}


@pytest.fixture
def prediction():
    """Residue types, positions (not more precise than a file), mask and pLDDT of every kind of residue in a row."""
    rng = np.random.default_rng(0)
    n = len(SEQUENCE)
    aatype = encode(SEQUENCE)
    positions = np.round(rng.uniform(-99, 99, size=(n, 37, 3)), 3).astype(np.float32)
    positions[:, 1] = np.arange(n)[:, None] * [3.8, 0, 0]  # Cα in the order of a chain
    mask = ATOM37_EXISTS[aatype].copy()
    mask[aatype == 20, :5] = [1, 1, 1, 0, 1]
    return aatype, positions, mask, np.round(np.linspace(7.125, 99.5, n), 2)


@pytest.fixture(params=WRITERS)
def file(request, tmp_path, prediction):
    path = tmp_path / f"structure.{request.param}"
    path.write_bytes(WRITERS[request.param](predicted_structure("query-1", *prediction)))
    return path


def test_gemmi_reads_sequence_chain_atoms_and_b_factors(file, prediction):
    _, positions, mask, plddt = prediction
    structure = gemmi.read_structure(str(file))
    structure.setup_entities()
    (chain,) = structure[0]
    assert chain.name == "A"
    polymer = chain.get_polymer()
    assert polymer.make_one_letter_sequence() == SEQUENCE
    assert structure.entities[0].full_sequence == [residue.name for residue in polymer]
    for number, residue in enumerate(chain):
        assert residue.seqid.num == number + 1
        assert {atom.name for atom in residue} == {ATOM_NAMES[slot] for slot in np.flatnonzero(mask[number])}
        for atom in residue:
            assert atom.b_iso == pytest.approx(plddt[number], abs=1e-4)
            assert atom.element.name == atom.name[0]
            expected = positions[number, ATOM_NAMES.index(atom.name)]
            np.testing.assert_allclose(atom.pos.tolist(), expected, atol=1e-4)


def test_biopython_reads_sequence_chain_atoms_and_b_factors(file, prediction):
    parsers = pytest.importorskip("Bio.PDB")
    from Bio.SeqUtils import seq1

    _, positions, mask, plddt = prediction
    parser = parsers.MMCIFParser(QUIET=True) if file.suffix == ".cif" else parsers.PDBParser(QUIET=True)
    (chain,) = parser.get_structure("query", file)[0]
    assert chain.id == "A"
    assert "".join(seq1(residue.get_resname()) for residue in chain) == SEQUENCE
    for number, residue in enumerate(chain):
        assert residue.id == (" ", number + 1, " ")
        assert len(residue) == mask[number].sum()
        for atom in residue:
            assert atom.bfactor == pytest.approx(plddt[number], abs=1e-4)
            assert atom.element == atom.name[0]
            np.testing.assert_allclose(atom.coord, positions[number, ATOM_NAMES.index(atom.name)], atol=1e-4)


def test_a_residue_without_atoms_is_in_the_sequence_alone(prediction):
    aatype, positions, _, plddt = prediction
    structure = predicted_structure("query-1", aatype, positions, ATOM37_EXISTS[aatype], plddt)
    unknown = SEQUENCE.index("X") + 1
    for write in WRITERS.values():
        found = gemmi.read_structure_string(write(structure).decode())
        found.setup_entities()
        assert [residue.seqid.num for residue in found[0][0]] == [n + 1 for n, x in enumerate(SEQUENCE) if x != "X"]
        assert found.entities[0].full_sequence[unknown - 1] == "UNK"
        assert len(found.entities[0].full_sequence) == len(SEQUENCE)


def test_training_could_read_it(file, prediction):
    _, positions, mask, _ = prediction
    chain = read_chain(file, None, SEQUENCE)
    np.testing.assert_array_equal(chain.atom_mask, mask)
    # The reader names NH1 and NH2 of arginine by where they are.
    fixed = [slot for slot, name in enumerate(ATOM_NAMES) if name not in ("NH1", "NH2")]
    np.testing.assert_allclose(chain.atom_positions[:, fixed], (positions * mask[..., None])[:, fixed], atol=1e-4)


def test_mmcif_says_that_b_factors_are_plddt(prediction):
    block = gemmi.cif.read_string(mmcif_bytes(predicted_structure("query-1", *prediction)).decode()).sole_block()
    assert block.name == "query-1"
    assert list(block.find_values("_ma_qa_metric.type")) == ["pLDDT", "pLDDT"]
    local = [float(value) for value in block.find_values("_ma_qa_metric_local.metric_value")]
    np.testing.assert_allclose(local, prediction[3], atol=1e-6)
    assert float(block.find_value("_ma_qa_metric_global.metric_value")) == pytest.approx(prediction[3].mean(), abs=0.01)
    entity = gemmi.cif.as_string(block.find_value("_entity_poly.pdbx_seq_one_letter_code"))
    assert entity.replace("\n", "") == SEQUENCE


def test_the_same_prediction_makes_the_same_files(prediction):
    for write in WRITERS.values():
        assert write(predicted_structure("q", *prediction)) == write(predicted_structure("q", *prediction))
