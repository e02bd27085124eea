"""Predicted structures as mmCIF and PDB files, with the confidence of each residue where viewers look for it.

Both formats carry pLDDT in the column of B-factors. The mmCIF says moreover, in ModelCIF's categories, that it is
pLDDT, which Mol* and ChimeraX colour by.
"""

import gemmi
import numpy as np

from evotrain.data.formats.alignment import letters
from evotrain.residues import ATOM_NAMES

CHAIN, ENTITY = "A", "1"
# What a prediction has: no crystal, no experiment.
GROUPS = gemmi.MmcifOutputGroups(
    False, block_name=True, entry=True, entity=True, entity_poly=True, entity_poly_seq=True, struct_asym=True,
    chem_comp=True, atoms=True, auth_all=True, group_pdb=True,
)  # fmt: skip
GLOBAL_METRIC, LOCAL_METRIC = "1", "2"  # identifiers in the table of metrics


def predicted_structure(
    name: str, aatype: np.ndarray, positions: np.ndarray, mask: np.ndarray, plddt: np.ndarray
) -> gemmi.Structure:
    """One chain, A, whose residues are numbered from 1.

    `aatype` is int [N], `positions` [N, 37, 3] in Å and `mask` [N, 37] 1 for the atoms to write, `plddt` [N] from 0 to
    100. An unknown residue is UNK; a residue without atoms is left out of the coordinates, not of the sequence.
    """
    sequence = _three_letter(aatype)
    chain = gemmi.Chain(CHAIN)
    for number, code in enumerate(sequence):
        residue = gemmi.Residue()
        residue.name, residue.seqid, residue.label_seq = code, gemmi.SeqId(number + 1, " "), number + 1
        residue.subchain, residue.entity_id, residue.entity_type = CHAIN, ENTITY, gemmi.EntityType.Polymer
        residue.het_flag = "A"  # ATOM records for every residue, UNK among them
        for slot in np.flatnonzero(mask[number] > 0):
            residue.add_atom(_atom(ATOM_NAMES[slot], positions[number, slot], plddt[number]))
        if len(residue):
            chain.add_residue(residue)
    model = gemmi.Model(1)
    model.add_chain(chain)
    structure = gemmi.Structure()
    structure.name = name
    structure.add_model(model)
    structure.entities.append(_entity(sequence))
    structure.assign_serial_numbers()
    return structure


def mmcif_bytes(structure: gemmi.Structure) -> bytes:
    """The mmCIF file of a predicted structure."""
    document = structure.make_mmcif_document(GROUPS)
    block = document.sole_block()
    residues = list(structure[0][CHAIN])
    values = [residue[0].b_iso for residue in residues]
    metrics = block.init_loop("_ma_qa_metric.", ["id", "name", "description", "type", "mode"])
    metrics.add_row([GLOBAL_METRIC, "pLDDT", "'mean pLDDT of the chain'", "pLDDT", "global"])
    metrics.add_row([LOCAL_METRIC, "pLDDT", "'predicted lDDT-CA of each residue'", "pLDDT", "local"])
    whole = block.init_loop("_ma_qa_metric_global.", ["ordinal_id", "model_id", "metric_id", "metric_value"])
    whole.add_row(["1", "1", GLOBAL_METRIC, f"{np.mean(values):.2f}"])
    places = ["ordinal_id", "model_id", "label_asym_id", "label_seq_id", "label_comp_id", "metric_id", "metric_value"]
    local = block.init_loop("_ma_qa_metric_local.", places)
    for residue, value in zip(residues, values, strict=True):
        number = str(residue.label_seq)
        local.add_row([number, "1", CHAIN, number, residue.name, LOCAL_METRIC, f"{value:.2f}"])
    return document.as_string(gemmi.cif.Style.Pdbx).encode()


def pdb_bytes(structure: gemmi.Structure) -> bytes:
    """The PDB file of a predicted structure; numbers beyond its columns are written in hybrid-36."""
    return structure.make_pdb_string(gemmi.PdbWriteOptions(minimal=False, ter_records=True)).encode()


def _atom(name: str, position: np.ndarray, b_factor: float) -> gemmi.Atom:
    atom = gemmi.Atom()
    atom.name, atom.element = name, gemmi.Element(name[0])  # of one letter, in every standard residue
    atom.pos = gemmi.Position(*np.round(position.astype(np.float64), 3).tolist())  # as many digits as a PDB file has
    atom.occ, atom.b_iso = 1.0, round(float(b_factor), 2)
    return atom


def _entity(sequence: list[str]) -> gemmi.Entity:
    entity = gemmi.Entity(ENTITY)
    entity.entity_type, entity.polymer_type = gemmi.EntityType.Polymer, gemmi.PolymerType.PeptideL
    entity.subchains, entity.full_sequence = [CHAIN], sequence
    return entity


def _three_letter(aatype: np.ndarray) -> list[str]:
    return [gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA) or "UNK" for letter in letters(aatype)]
