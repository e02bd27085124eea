"""Structures as labels of a query: the coordinates of one chain, aligned to the query of an alignment."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from evotrain.data.formats.alignment import encode
from evotrain.data.formats.pairwise import MIN_IDENTITY, align
from evotrain.data.formats.polymer import Polymer, read_polymer
from evotrain.data.protein import NUM_ATOMS, UNKNOWN
from evotrain.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The observed coordinates of one chain along a query of N residues, in Å."""

    atom_positions: np.ndarray  # float32 [N, 37, 3]
    atom_mask: np.ndarray  # float32 [N, 37], 1 where observed
    b_factor: np.ndarray  # float32 [N] of Cα: in Å² of an experiment, the pLDDT of a prediction; 0 where not observed
    resolution: float = 0.0  # of the experiment in Å, 0 where unknown
    release_date: str = ""  # of the structure, YYYY-MM-DD, "" where unknown


def read_chain(path: Path, chain: str | None, query: str) -> Chain:
    """Coordinates of one protein chain of an mmCIF or PDB file, plain or gzip, along the query.

    `chain` is the author's chain name, else the mmCIF label; None takes the only protein chain. Everything is read as
    `read_polymer` says. Raises DataError for an unreadable file, a chain that is not there or holds no protein, and a
    sequence that does not match the query.
    """
    polymer = read_polymer(path, chain)
    pairs = _pair(query, polymer)
    _check_identity(path, query, polymer, pairs)
    rows, places = np.array(pairs, int).T
    positions = np.zeros((len(query), NUM_ATOMS, 3), np.float32)
    mask = np.zeros((len(query), NUM_ATOMS), np.float32)
    b_factor = np.zeros(len(query), np.float32)
    positions[rows], mask[rows] = polymer.atom_positions[places], polymer.atom_mask[places]
    b_factor[rows] = polymer.b_factor[places]
    return Chain(
        atom_positions=positions,
        atom_mask=mask,
        b_factor=b_factor,
        resolution=polymer.resolution,
        release_date=polymer.release_date,
    )


def _pair(query: str, polymer: Polymer) -> list[tuple[int, int]]:
    """Pairs (index in the query, index in the polymer) of its observed residues.

    The query may be the polymer's full sequence or have observed residues only: what agrees better counts.
    """
    observed = np.flatnonzero(polymer.atom_mask.any(1))
    is_observed = set(observed.tolist())
    full = [pair for pair in align(query, polymer.sequence, polymer.breaks) if pair[1] in is_observed]
    if len(observed) == len(polymer.sequence):
        return full
    sequence = "".join(polymer.sequence[place] for place in observed)
    breaks = polymer.breaks[observed] | (np.diff(observed, prepend=-1) > 1)
    seen = [(row, int(observed[column])) for row, column in align(query, sequence, breaks)]
    return max(full, seen, key=lambda pairs: _agreement(query, polymer, pairs))


def _compare(query: str, polymer: Polymer, pairs: list[tuple[int, int]]) -> tuple[int, int]:
    """Number of pairs that are identical, and of pairs and gaps that were compared.

    Unknown residues on either side neither match nor contradict; a gap in a connected chain contradicts once. Without
    the latter a short query would be found in any long chain, its letters scattered: 87 % identical in trials.
    """
    codes, others = encode(query), encode(polymer.sequence)
    known = [(i, j) for i, j in pairs if codes[i] != UNKNOWN and others[j] != UNKNOWN]
    rank = np.cumsum(polymer.atom_mask.any(1))
    gaps = sum(
        rank[j_next] - rank[j] > 1 or (i_next - i > 1 and j_next - j == 1 and not polymer.breaks[j_next])
        for (i, j), (i_next, j_next) in pairwise(pairs)
    )
    return sum(codes[i] == others[j] for i, j in known), len(known) + gaps


def _agreement(query: str, polymer: Polymer, pairs: list[tuple[int, int]]) -> int:
    same, compared = _compare(query, polymer, pairs)
    return 2 * same - compared


def _check_identity(path: Path, query: str, polymer: Polymer, pairs: list[tuple[int, int]]) -> None:
    same, compared = _compare(query, polymer, pairs)
    identity = same / max(compared, 1)
    if identity < MIN_IDENTITY:
        raise DataError(
            f"{path}: the chain's sequence does not match the query of the alignment "
            f"({100 * identity:.1f} % of {compared} aligned residues and gaps agree, "
            f"{100 * MIN_IDENTITY:.0f} % are needed); check the chain column of index.csv."
        )
