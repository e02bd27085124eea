"""Protein structures, read with gemmi, as AlphaFold's 37-atom arrays along a query sequence."""

import math
from itertools import pairwise
from pathlib import Path

import gemmi
import numpy as np

from evotrain.data.formats.alignment import encode, letters
from evotrain.data.protein import NUM_ATOMS, RESIDUES, UNKNOWN
from evotrain.errors import DataError
from evotrain.residues import ATOM_INDEX, RESIDUE_ATOM14_NAMES

# Of a residue without a known side chain.
_UNKNOWN_ATOMS = ("N", "CA", "C", "CB", "O")
# Atom name → place in the 37 atoms for each residue; other names (hydrogens, modifications) are not in the parent.
_SLOTS = {
    letter: {name: ATOM_INDEX[name] for name in (*(names or _UNKNOWN_ATOMS), "OXT")}
    for letter, names in zip(f"{RESIDUES}X", RESIDUE_ATOM14_NAMES, strict=True)
}
# Selenium takes the place of methionine's or cysteine's sulphur.
_SLOTS["M"]["SE"], _SLOTS["C"]["SE"] = ATOM_INDEX["SD"], ATOM_INDEX["SG"]
_CD, _NH1, _NH2 = (ATOM_INDEX[name] for name in ("CD", "NH1", "NH2"))

MIN_IDENTITY = 0.9
# Neighbours along a chain have their Cα 2.9 Å (cis) or 3.8 Å (trans) apart: further means that residues are missing.
_MAX_CA_STEP = 4.5
# Cost of opening a gap within a connected chain, where a match counts 1, a mismatch and each residue in a gap -1.
_GAP_OPEN = -3


def read_chain(path: Path, chain: str | None, query: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Coordinates of one chain along the query: positions float32 [N, 37, 3] in Å, mask float32 [N, 37], resolution.

    The last is that of the experiment in Å, 0 where the file names none (as for NMR and predictions).

    Reads the first model of an mmCIF or PDB file, plain or gzip. `chain` is the author's chain name, else the mmCIF
    label; None takes the only protein chain. Of alternative atoms and residues the one of highest occupancy counts;
    modified residues count as their parents. Raises DataError for an unreadable file, a chain that is not there or
    holds no protein, and a sequence that does not match the query.
    """
    structure = _read_structure(path)
    try:
        residues = _select_chain(path, structure[0], chain)
        observed = letters(encode("".join(_letter(residue) for residue in residues)))
        pairs = _align(query, observed, residues)
        _check_identity(path, query, observed, pairs, residues)
        return *_coordinates(len(query), observed, residues, pairs), _resolution(structure)
    except UnicodeDecodeError as error:  # gemmi decodes a name when it is asked for
        raise DataError(f"{path}: holds a name that is no text ({error.reason}); copy the file again.") from None


def _resolution(structure: gemmi.Structure) -> float:
    return structure.resolution if 0 < structure.resolution < math.inf else 0.0


def _coordinates(
    length: int, observed: str, residues: list[gemmi.Residue], pairs: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Atom positions [N, 37, 3] and mask [N, 37] of the paired residues."""
    positions = np.zeros((length, NUM_ATOMS, 3), np.float32)
    mask = np.zeros((length, NUM_ATOMS), np.float32)
    for row, column in pairs:
        slots = _SLOTS[observed[column]]
        occupancy: dict[int, float] = {}
        for atom in residues[column]:
            slot = slots.get(atom.name)
            x, y, z = atom.pos.tolist()
            if slot is not None and atom.occ > occupancy.get(slot, -1.0) and math.isfinite(x + y + z):
                occupancy[slot] = atom.occ
                positions[row, slot] = x, y, z
                mask[row, slot] = 1.0
        if observed[column] == "R" and mask[row, [_CD, _NH1, _NH2]].all():
            _name_arginine(positions[row])
    return positions, mask


def _name_arginine(positions: np.ndarray) -> None:
    """Gives the name NH1 to the nitrogen on Cδ's side, as the standard has it and many files have not; [37, 3]."""
    near, far = (np.linalg.norm(positions[atom] - positions[_CD]) for atom in (_NH1, _NH2))
    if near > far:
        positions[[_NH1, _NH2]] = positions[[_NH2, _NH1]]


def _read_structure(path: Path) -> gemmi.Structure:
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    try:
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
    except (RuntimeError, ValueError, IndexError, OverflowError, OSError) as error:
        reason = " ".join(str(error).replace(str(path), path.name).rstrip(".").split())
        raise DataError(f"{path}: cannot be read as mmCIF or PDB, plain or gzip ({reason}).") from None
    if not len(structure) or not structure[0].count_atom_sites():
        raise DataError(f"{path}: holds no atoms; mmCIF needs its _atom_site table, PDB its ATOM records.")
    return structure


def _select_chain(path: Path, model: gemmi.Model, name: str | None) -> list[gemmi.Residue]:
    """The observed residues of the protein chain with that name, or of the only one."""
    if name is not None:
        chain = model.find_chain(name)
        residues = _protein_residues(chain.get_polymer() if chain else model.get_subchain(name))
        if residues:
            return residues
    proteins = {chain.name: residues for chain in model if (residues := _protein_residues(chain.get_polymer()))}
    if not proteins:
        raise DataError(f"{path}: holds no protein, only chains {', '.join(chain.name for chain in model)}.")
    listing = ", ".join(chain or "' '" for chain in proteins)
    if name is not None:
        fault = "holds no protein" if model.find_chain(name) else "is not there"
        raise DataError(f"{path}: chain {name!r} {fault}; the protein chains are {listing}.")
    if len(proteins) > 1:
        raise DataError(f"{path}: has several protein chains ({listing}); name one in the chain column of index.csv.")
    return next(iter(proteins.values()))


def _protein_residues(span: gemmi.ResidueSpan) -> list[gemmi.Residue]:
    """One residue a position: the highest occupancy where several share it, the first of equals."""
    residues = []
    if not len(span):  # gemmi 0.7 crashes on the groups of an empty span
        return residues
    for group in span.residue_groups():
        candidates = [residue for residue in group if _is_amino_acid(residue)]
        if candidates:
            residues.append(max(candidates, key=lambda residue: max((atom.occ for atom in residue), default=0.0)))
    return residues


def _is_amino_acid(residue: gemmi.Residue) -> bool:
    """By gemmi's table, and by its backbone where the table does not know the name."""
    info = gemmi.find_tabulated_residue(residue.name)
    return info.is_amino_acid() or (not info.found() and {atom.name for atom in residue} >= {"N", "CA", "C"})


def _letter(residue: gemmi.Residue) -> str:
    """The one-letter code, of the parent for a modified residue."""
    return gemmi.find_tabulated_residue(residue.name).one_letter_code.upper().strip() or "X"


def _align(query: str, observed: str, residues: list[gemmi.Residue]) -> list[tuple[int, int]]:
    """Pairs (index in the query, index in the observed residues) of a global alignment.

    A stretch of the query may be missing for free where the chain is broken and at its ends, not elsewhere: letters
    alone do not tell on which side of a gap a repeated residue stands.
    """
    scoring = gemmi.AlignmentScoring()
    scoring.gapo = _GAP_OPEN
    within = [0 if _is_break(before, after) else _GAP_OPEN for before, after in pairwise(residues)]
    gap_open = [0, *within, 0]
    result = gemmi.align_string_sequences(list(query), list(observed), gap_open, scoring)
    pairs, row, column = [], 0, 0
    rows = result.add_gaps(query, 1)
    columns = result.add_gaps(observed, 2)
    for in_query, in_observed in zip(rows, columns, strict=True):
        if in_query != "-" and in_observed != "-":
            pairs.append((row, column))
        row += in_query != "-"
        column += in_observed != "-"
    return pairs


def _is_break(before: gemmi.Residue, after: gemmi.Residue) -> bool:
    """Whether residues may be missing between two observed ones."""
    if before.label_seq is not None and after.label_seq is not None and after.label_seq - before.label_seq > 1:
        return True
    ca_before, ca_after = before.get_ca(), after.get_ca()
    return ca_before is None or ca_after is None or ca_before.pos.dist(ca_after.pos) > _MAX_CA_STEP


def _check_identity(
    path: Path, query: str, observed: str, pairs: list[tuple[int, int]], residues: list[gemmi.Residue]
) -> None:
    """Unknown residues on either side neither match nor contradict; a gap in a connected chain contradicts once.

    Without the latter a short query would be found in any long chain, its letters scattered: 87 % identical in trials.
    """
    codes, others = encode(query), encode(observed)
    known = [(i, j) for i, j in pairs if codes[i] != UNKNOWN and others[j] != UNKNOWN]
    gaps = sum(
        j_next - j > 1 or (i_next - i > 1 and not _is_break(residues[j], residues[j_next]))
        for (i, j), (i_next, j_next) in pairwise(pairs)
    )
    identity = sum(codes[i] == others[j] for i, j in known) / max(len(known) + gaps, 1)
    if identity < MIN_IDENTITY:
        raise DataError(
            f"{path}: the chain's sequence does not match the query of the alignment "
            f"({100 * identity:.1f} % of {len(known) + gaps} aligned residues and gaps agree, "
            f"{100 * MIN_IDENTITY:.0f} % are needed); check the chain column of index.csv."
        )
