"""Two sequences aligned from end to end with gemmi: a query and a chain, or a hit and the chain that it is of."""

import gemmi
import numpy as np

MIN_IDENTITY = 0.9  # of residues in two sequences that count as the same chain
# Cost of opening a gap, where a match counts 1, a mismatch and each residue in a gap -1.
_GAP_OPEN = -3


def align(one: str, other: str, breaks: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (place in `one`, place in `other`) of a global alignment, increasing in both.

    A stretch of `one` may be missing in `other` for free at its ends and at its breaks, bool [L], each before a
    residue; not elsewhere: letters alone do not tell on which side of a gap a repeated residue stands.
    """
    if one == other:
        return [(place, place) for place in range(len(one))]
    scoring = gemmi.AlignmentScoring()
    scoring.gapo = _GAP_OPEN
    gap_open = [0, *(0 if free else _GAP_OPEN for free in breaks[1:]), 0]
    result = gemmi.align_string_sequences(list(one), list(other), gap_open, scoring)
    pairs, row, column = [], 0, 0
    for in_one, in_other in zip(result.add_gaps(one, 1), result.add_gaps(other, 2), strict=True):
        if in_one != "-" and in_other != "-":
            pairs.append((row, column))
        row += in_one != "-"
        column += in_other != "-"
    return pairs
