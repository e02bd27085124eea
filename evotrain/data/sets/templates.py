"""From a list of template hits and a directory of structures to templates along the query (AlphaFold 2, Suppl. 1.2.3).

Dimensions: N residues of the query, L of a template's chain, P aligned pairs.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evotrain.data.features.templates import CANDIDATES
from evotrain.data.formats.alignment import encode
from evotrain.data.formats.files import is_file
from evotrain.data.formats.hits import TemplateHit, entry_of_name
from evotrain.data.formats.pairwise import MIN_IDENTITY, align
from evotrain.data.formats.polymer import Polymer, read_polymer, read_polymers
from evotrain.data.protein import CA_ATOM, GAP, NUM_ATOMS, Templates
from evotrain.errors import DataError

# What a hit needs to be looked at; a copy of the query would teach a model to copy.
_MIN_ALIGNED = 0.1  # of the query, exclusive
_MAX_COPIED = 0.95  # of the query
_MIN_RESIDUES = 10
# What a structure needs to be used: alanine's atoms, and no two neighbours further apart.
_MIN_ATOMS = 5
_MAX_CA_STEP = 150.0  # Å


class Unsuitable(Exception):
    """Why a hit is no template, in words that are the same for every such hit."""


@dataclass(frozen=True)
class _Placed:
    """A hit in its structure: residue `sequence[places[i]]` has the atoms `polymer_places[i]`; all int [P]."""

    polymer: Polymer
    sequence: str
    query_places: np.ndarray
    places: np.ndarray
    polymer_places: np.ndarray


def find_templates(
    query: str, hits: Sequence[TemplateHit], directory: Path, *, before: str | None, own_entry: str | None
) -> Templates | None:
    """The 20 most trusted hits that are templates of the query, or those that there are; None if none is.

    The directory holds `<PDB entry>.cif[.gz]`, or the PDB's own layout `ab/1abc.cif.gz`. A hit is left out if it was
    released on the day `before` (YYYY-MM-DD) or later or on none that its file tells; if it is of the PDB entry
    `own_entry`; if it is aligned to a tenth of the query or less, has less than 10 residues or is a copy of more than
    95 % of the query; or if its structure is missing, cannot be read, does not hold the hit's sequence or is broken.
    HHsearch's hits are ranked by their sum of probabilities, hmmsearch's keep their order. Raises RunError where the
    disk or network fails.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    shown: set[tuple[bytes, bytes]] = set()
    for hit in sorted(hits, key=lambda hit: -(hit.sum_probs or 0.0)):
        if len(found) == CANDIDATES:
            break
        letters = hit.query_places.tobytes(), encode(hit.sequence)[hit.places].tobytes()
        # HHsearch's database is clustered. hmmsearch's is not: every chain of a large assembly is a hit of its own.
        if hit.sum_probs is None and letters in shown:
            continue
        with suppress(Unsuitable, DataError):
            found.append(find_template(query, hit, directory, before=before, own_entry=own_entry))
            shown.add(letters)
    if not found:
        return None
    aatype, positions, mask = (np.stack(arrays) for arrays in zip(*found, strict=True))
    return Templates(aatype=aatype, atom_positions=positions, atom_mask=mask)


def find_template(
    query: str, hit: TemplateHit, directory: Path, *, before: str | None, own_entry: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One hit as a template: aatype int32 [N], atom positions float32 [N, 37, 3] in Å and mask float32 [N, 37].

    Raises Unsuitable, or DataError for a structure that cannot be read, for a hit that `find_templates` leaves out.
    """
    _check_hit(hit, query, own_entry)
    return _along_query(len(query), _place(hit, directory, before))


def _check_hit(hit: TemplateHit, query: str, own_entry: str | None) -> None:
    """What can be said without the structure."""
    if own_entry is not None and entry_of_name(hit.pdb_id) == entry_of_name(own_entry):
        raise Unsuitable("of the protein's own entry")
    if hit.aligned_columns / len(query) <= _MIN_ALIGNED:
        raise Unsuitable("aligned to too little of the query")
    if hit.sequence in query and len(hit.sequence) / len(query) > _MAX_COPIED:
        raise Unsuitable("a copy of the query")
    if len(hit.sequence) < _MIN_RESIDUES:
        raise Unsuitable("of too few residues")


def _place(hit: TemplateHit, directory: Path, before: str | None) -> _Placed:
    """The hit's residues in the structure of its entry. Raises Unsuitable or DataError."""
    path = _structure_file(directory, hit.pdb_id)
    named = _named_chain(path, hit.chain)
    chains = [named] if named else list(read_polymers(path))
    if not chains:
        raise Unsuitable("without a protein in its structure")
    released = chains[0].release_date
    if before is not None and not "" < released < before:
        raise Unsuitable("released too late, or on a day that its file does not tell")
    if named and hit.sequence not in named.sequence:  # chains may have got other names
        chains += read_polymers(path)
    for start_of in (_exact_start, _fuzzy_start):
        for chain in chains:
            start = start_of(hit.sequence, chain.sequence)
            if start >= 0:
                return _Placed(chain, hit.sequence, hit.query_places, hit.places, hit.places + start)
    if not named and len(chains) > 1:
        raise Unsuitable("of a chain that its structure does not have")
    return _realigned(hit, chains[0])


def _named_chain(path: Path, name: str) -> Polymer | None:
    """None if the file cannot be read, too: that is said when its other chains are asked for."""
    try:
        return read_polymer(path, name)
    except DataError:
        return None


def _structure_file(directory: Path, entry: str) -> Path:
    for name in (f"{entry}.cif", f"{entry}.cif.gz", f"{entry[-3:-1]}/{entry}.cif.gz"):
        if is_file(directory / name):
            return directory / name
    raise Unsuitable("without a structure")


def _exact_start(part: str, whole: str) -> int:
    return whole.find(part)


def _fuzzy_start(part: str, whole: str) -> int:
    """Where the part stands in the whole, if X on either side stands for any residue; -1 if nowhere."""
    pattern = "".join("." if letter == "X" else f"[{letter}X]" for letter in part)
    match = re.search(pattern, whole)
    return match.start() if match else -1


def _realigned(hit: TemplateHit, polymer: Polymer) -> _Placed:
    """The hit in a chain whose sequence has changed since the database was made; pairs that this breaks are dropped."""
    no_breaks = np.zeros(len(hit.sequence), bool)  # but the chain may go on at both ends of the hit
    pairs = align(polymer.sequence, hit.sequence, no_breaks)
    same = sum(polymer.sequence[i] == hit.sequence[j] for i, j in pairs)
    if same < MIN_IDENTITY * min(len(polymer.sequence), len(hit.sequence)):
        raise Unsuitable("of another sequence than its structure")
    chain_places = np.full(len(hit.sequence), -1)
    for i, j in pairs:
        chain_places[j] = i
    places = chain_places[hit.places]
    kept = places >= 0
    return _Placed(polymer, polymer.sequence, hit.query_places[kept], places[kept], places[kept])


def _along_query(length: int, placed: _Placed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """aatype int32 [N], atom positions float32 [N, 37, 3] in Å and mask float32 [N, 37] of the template."""
    _check_steps(placed.polymer)
    aatype = np.full(length, GAP, np.int32)
    positions = np.zeros((length, NUM_ATOMS, 3), np.float32)
    mask = np.zeros((length, NUM_ATOMS), np.float32)
    aatype[placed.query_places] = encode(placed.sequence)[placed.places]
    positions[placed.query_places] = placed.polymer.atom_positions[placed.polymer_places]
    mask[placed.query_places] = placed.polymer.atom_mask[placed.polymer_places]
    if mask.sum() < _MIN_ATOMS:
        raise Unsuitable("without coordinates where it is aligned")
    return aatype, positions, mask


def _check_steps(polymer: Polymer) -> None:
    """Observed neighbours that are far apart are damage: AlphaFold rejects no less than that."""
    observed = polymer.atom_mask[:, CA_ATOM] > 0
    steps = np.linalg.norm(np.diff(polymer.atom_positions[:, CA_ATOM], axis=0), axis=-1)
    if (steps > _MAX_CA_STEP)[observed[1:] & observed[:-1]].any():
        raise Unsuitable("with a chain torn apart")
