"""One protein chain of an mmCIF or PDB file, read with gemmi, as AlphaFold's 37-atom arrays along its own sequence."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import gemmi
import numpy as np

from evotrain.data.formats.alignment import encode, letters
from evotrain.data.formats.entry import Entry, read_entry
from evotrain.data.protein import CA_ATOM, NUM_ATOMS, RESIDUES
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

# Neighbours along a chain have their Cα 2.9 Å (cis) or 3.8 Å (trans) apart: further means that residues are missing.
_MAX_CA_STEP = 4.5
_NUCLEIC = {gemmi.PolymerType.Dna, gemmi.PolymerType.Rna, gemmi.PolymerType.DnaRnaHybrid, gemmi.PolymerType.Pna}


@dataclass(frozen=True, kw_only=True)
class Polymer:
    """A protein chain along its full sequence, or along its observed residues where the file does not name others.

    L is the number of residues. A residue that was not observed has no atoms; coordinates are in Å.
    """

    sequence: str  # L letters, of the parent for a modified residue, X for an unknown one
    atom_positions: np.ndarray  # float32 [L, 37, 3]
    atom_mask: np.ndarray  # float32 [L, 37], 1 where observed
    b_factor: np.ndarray  # float32 [L] of Cα
    breaks: np.ndarray  # bool [L], whether the chain is interrupted between an observed residue and the one before
    resolution: float  # of the experiment in Å, 0 where the file names none (as for NMR and predictions)
    release_date: str  # YYYY-MM-DD, "" where the file names none
    author_chain: str
    label_chain: str  # of mmCIF, "" for PDB


def read_polymer(path: Path, chain: str | None) -> Polymer:
    """One protein chain of the first model of an mmCIF or PDB file, plain or gzip.

    `chain` is the author's chain name, else the mmCIF label; None takes the only protein chain. The sequence is that
    of SEQRES or _entity_poly_seq where the file has it. Of alternative atoms and residues the one of highest occupancy
    counts, the first of equals; modified residues count as their parents. The release date is the earliest of the
    revision history (mmCIF) or of REVDAT (PDB): a date of deposition does not count, for releases come months later.
    Raises DataError for an unreadable file and for a chain that is not there or holds no protein.
    """
    entry = read_entry(path)
    with _readable_names(path):
        return _polymer(entry, *_select_chain(path, entry.structure[0], chain))


def read_polymers(path: Path) -> list[Polymer]:
    """The protein chains of the first model, in the file's order, as `read_polymer` reads each of them."""
    entry = read_entry(path)
    with _readable_names(path):
        return [_polymer(entry, author, span) for author, span in _protein_spans(entry.structure[0])]


@contextmanager
def _readable_names(path: Path) -> Iterator[None]:
    """Raises DataError for a name of a chain, residue or atom that is no text: gemmi decodes it when it is asked."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: holds a name that is no text ({error.reason}); copy the file again.") from None


def _polymer(entry: Entry, author: str, span: gemmi.ResidueSpan) -> Polymer:
    residues = _one_residue_a_position(span)
    sequence, places = _sequence(entry, span, residues)
    positions, mask, b_factor = _coordinates(sequence, residues, places)
    if not mask.any():
        raise DataError(f"{entry.path}: chain {author!r} has no atom with coordinates; take another structure.")
    return Polymer(
        sequence=sequence,
        atom_positions=positions,
        atom_mask=mask,
        b_factor=b_factor,
        breaks=_breaks(residues, places, len(sequence)),
        resolution=entry.resolution,
        release_date=entry.release_date,
        author_chain=author,
        label_chain=span.subchain_id() if entry.is_mmcif else "",
    )


def _select_chain(path: Path, model: gemmi.Model, name: str | None) -> tuple[str, gemmi.ResidueSpan]:
    """The author's name and the residues of the protein chain with that name, or of the only one."""
    proteins = list(_protein_spans(model))
    if not proteins:
        raise DataError(f"{path}: holds no protein, only chains {', '.join(chain.name for chain in model)}.")
    listing = ", ".join(dict.fromkeys(author or "' '" for author, _ in proteins))
    if name is not None:
        named = [(author, span) for author, span in proteins if author == name]
        named += [(author, span) for author, span in proteins if span.subchain_id() == name]
        if named:
            return named[0]
        fault = "holds no protein" if model.find_chain(name) else "is not there"
        raise DataError(f"{path}: chain {name!r} {fault}; the protein chains are {listing}.")
    if len(proteins) > 1:
        raise DataError(f"{path}: has several protein chains ({listing}); name one in the chain column of index.csv.")
    return proteins[0]


def _protein_spans(model: gemmi.Model) -> Iterator[tuple[str, gemmi.ResidueSpan]]:
    """The author's name and the residues of every polymer that holds amino acids."""
    for chain in model:
        for span in chain.subchains():
            if (
                span[0].entity_type == gemmi.EntityType.Polymer
                and span.check_polymer_type() not in _NUCLEIC
                and any(map(_is_amino_acid, span))
            ):
                yield chain.name, span


def _one_residue_a_position(span: gemmi.ResidueSpan) -> list[gemmi.Residue]:
    """The observed amino acids: where several share a position that of highest occupancy, the first of equals."""
    residues = []
    for group in span.residue_groups():
        candidates = [residue for residue in group if _is_amino_acid(residue)]
        residues += candidates if len(candidates) < 2 else [max(candidates, key=_occupancy)]
    return residues


def _occupancy(residue: gemmi.Residue) -> float:
    return max((atom.occ for atom in residue), default=0.0)


def _is_amino_acid(residue: gemmi.Residue) -> bool:
    """By gemmi's table, and by its Cα where the table does not know the name."""
    info = gemmi.find_tabulated_residue(residue.name)
    return info.is_amino_acid() or (not info.found() and residue.get_ca() is not None)


def _sequence(entry: Entry, span: gemmi.ResidueSpan, residues: list[gemmi.Residue]) -> tuple[str, list[int]]:
    """The sequence, and the place of every observed residue in it.

    An observed residue gives its own letter: where residues share a place, the file's sequence may name another.
    """
    entity = entry.structure.get_entity_of(span)
    monomers = [gemmi.Entity.first_mon(names) for names in entity.full_sequence] if entity else []
    numbers = [residue.label_seq or 0 for residue in residues]
    in_order = all(0 < number < following for number, following in pairwise([*numbers, len(monomers) + 1]))
    if monomers and in_order:
        places = [number - 1 for number in numbers]
        for place, residue in zip(places, residues, strict=True):
            monomers[place] = residue.name
    else:
        monomers, places = [residue.name for residue in residues], list(range(len(residues)))
    parents = {modified.res_id.name: modified.parent_comp_id for modified in entry.structure.mod_residues}
    return letters(encode("".join(_letter(name) or _letter(parents.get(name, "")) or "X" for name in monomers))), places


def _letter(name: str) -> str:
    """The one-letter code of a residue's name by gemmi's table, of the parent for a modified one; '' if unknown."""
    code = gemmi.find_tabulated_residue(name).one_letter_code.upper().strip()
    return "" if code == "X" else code


def _coordinates(
    sequence: str, residues: list[gemmi.Residue], places: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atom positions [L, 37, 3], mask [L, 37] and B factors of Cα [L] of residues at their places."""
    slots, numbers = [], []
    for place, residue in zip(places, residues, strict=True):
        known = _SLOTS[sequence[place]]
        for atom in residue:
            slot = known.get(atom.name)
            if slot is not None:
                slots.append(place * NUM_ATOMS + slot)
                numbers.append((*atom.pos.tolist(), atom.occ, atom.b_iso))
    slots, numbers = np.array(slots, int), np.array(numbers, np.float64).reshape(-1, 5)
    finite = np.isfinite(numbers[:, :3].sum(1))
    slots, numbers = slots[finite], numbers[finite]
    # Of atoms that share a slot, the last one written stays: the most occupied, of equals the first.
    order = np.lexsort((-np.arange(len(slots)), numbers[:, 3]))
    atoms = np.zeros((len(sequence) * NUM_ATOMS, 5), np.float32)
    mask = np.zeros(len(sequence) * NUM_ATOMS, np.float32)
    atoms[slots[order]] = numbers[order]
    mask[slots] = 1.0
    atoms, mask = atoms.reshape(-1, NUM_ATOMS, 5), mask.reshape(-1, NUM_ATOMS)
    positions, b_factor = np.ascontiguousarray(atoms[..., :3]), np.nan_to_num(atoms[:, CA_ATOM, 4])
    for place, letter in enumerate(sequence):
        if letter == "R" and mask[place, [_CD, _NH1, _NH2]].all():
            _name_arginine(positions[place])
    return positions, mask, b_factor


def _name_arginine(positions: np.ndarray) -> None:
    """Gives the name NH1 to the nitrogen on Cδ's side, as the standard has it and many files have not; [37, 3]."""
    near, far = (np.linalg.norm(positions[atom] - positions[_CD]) for atom in (_NH1, _NH2))
    if near > far:
        positions[[_NH1, _NH2]] = positions[[_NH2, _NH1]]


def _breaks(residues: list[gemmi.Residue], places: list[int], length: int) -> np.ndarray:
    breaks = np.zeros(length, bool)
    for (before, after), place in zip(pairwise(residues), places[1:], strict=True):
        breaks[place] = _is_break(before, after)
    return breaks


def _is_break(before: gemmi.Residue, after: gemmi.Residue) -> bool:
    """Whether residues may be missing between two observed ones."""
    if before.label_seq is not None and after.label_seq is not None and after.label_seq - before.label_seq > 1:
        return True
    ca_before, ca_after = before.get_ca(), after.get_ca()
    return ca_before is None or ca_after is None or not ca_before.pos.dist(ca_after.pos) <= _MAX_CA_STEP
