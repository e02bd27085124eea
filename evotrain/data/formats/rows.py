"""The rows of an alignment file as text, before their columns mean anything."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rows:
    """M rows of letters, each put together from one or several lines of the file."""

    names: list[str]
    headers: np.ndarray  # int [M], number of the line that names the row
    sequence: bytes  # the letters of all rows, one row after the other
    starts: np.ndarray  # int [M + 1], where each row starts in `sequence`
    line_ends: np.ndarray  # int [lines of letters], where each line of letters ends in `sequence`
    line_numbers: np.ndarray  # int [lines of letters]

    @property
    def lengths(self) -> np.ndarray:
        """Letters of each row, int [M]."""
        return np.diff(self.starts)

    @property
    def letters(self) -> np.ndarray:
        """The letters of all rows, uint8 ASCII [letters], read-only."""
        return np.frombuffer(self.sequence, np.uint8)

    def line_of(self, place: int) -> int:
        """Number of the line in which letter `place` of the sequence stands."""
        return int(self.line_numbers[np.searchsorted(self.line_ends, place, side="right")])


def make_rows(names: list[str], headers: list[int], pieces: list[bytes], rows: list[int], numbers: list[int]) -> Rows:
    """Rows of `pieces`: the row that each belongs to, not decreasing, and the number of its line."""
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    first = np.searchsorted(np.array(rows, np.int64), np.arange(len(names) + 1))
    return Rows(
        names=names,
        headers=np.array(headers, np.int64),
        sequence=b"".join(pieces),
        starts=np.concatenate([[0], ends])[first],
        line_ends=ends,
        line_numbers=np.array(numbers, np.int64),
    )
