"""Alignments to a query: a3m, a2m, aligned FASTA and Stockholm, plain or gzip, told apart by what they hold.

M is the number of rows, N the number of residues of the query, which is the first row. Residues that a row has where
the query has none are insertions: not aligned, only counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evotrain.data.formats.fasta import fasta_rows
from evotrain.data.formats.files import read_text
from evotrain.data.formats.foreign import foreign_format
from evotrain.data.formats.rows import Rows
from evotrain.data.formats.stockholm import STOCKHOLM, stockholm_rows
from evotrain.data.protein import GAP, RESIDUES, UNKNOWN
from evotrain.errors import DataError

# How names of alignments end, .gz left out; which format a file holds is seen from its content.
FASTA_SUFFIXES = (".fasta", ".fa", ".faa", ".fas", ".afa")
SUFFIXES = (".a3m", ".a2m", ".sto", ".sth", ".stockholm", *FASTA_SUFFIXES)

# Letters beyond the twenty residues, read as HHblits and AlphaFold read them.
_AMBIGUOUS = {"B": "D", "Z": "E", "U": "C", "J": "X", "O": "X"}
_INVALID = 255
_DASH, _DOT = ord("-"), ord(".")


def _letter_codes() -> np.ndarray:
    """Code of every capital and of the gap, uint8 [256]."""
    codes = np.full(256, _INVALID, np.uint8)
    for code, letter in enumerate(f"{RESIDUES}X-"):
        codes[ord(letter)] = code
    for letter, meaning in _AMBIGUOUS.items():
        codes[ord(letter)] = codes[ord(meaning)]
    return codes


_CODES = _letter_codes()
_IS_CAPITAL = _CODES <= UNKNOWN
_IS_LOWER = np.roll(np.arange(256) < 26, ord("a"))
_IS_RESIDUE = _IS_CAPITAL | _IS_LOWER
_IS_ALIGNED = _CODES <= GAP  # a column of an a3m; lower case is an insertion, a dot the place of another row's
_IS_VALID = _IS_ALIGNED | _IS_LOWER
_IS_VALID[_DOT] = True
# Of a letter in a column of the query: the case says nothing there, and both signs of a gap are one.
_AS_ALIGNED = np.where(_IS_LOWER, np.arange(256) - ord("a") + ord("A"), np.arange(256)).astype(np.uint8)
_AS_ALIGNED[_DOT] = _DASH


@dataclass(frozen=True)
class Alignment:
    """Sequences aligned to a query, which is row 0 and has no gaps."""

    names: list[str]  # M
    letters: np.ndarray  # uint8 [M, N], ASCII capitals as in the file (also B, J, O, U, X, Z) and -
    deletions: np.ndarray  # int32 [M, N], residues inserted left of each column; those after the last belong to none

    @property
    def codes(self) -> np.ndarray:
        """uint8 [M, N]: 0-19 residues, 20 unknown, 21 gap."""
        return _CODES[self.letters]

    @property
    def query(self) -> str:
        """Row 0 as residues that the model knows, X for an unknown one."""
        return letters(self.codes[0])


def letters(codes: np.ndarray) -> str:
    """The one-letter sequence of residue codes uint8 [N]; X for unknown, - for a gap."""
    return "".join((RESIDUES + "X-")[code] for code in codes)


def encode(sequence: str) -> np.ndarray:
    """Residue codes uint8 [N] of capital letters; a letter that is no residue is unknown."""
    codes = _CODES[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]
    return np.where(codes <= GAP, codes, UNKNOWN).astype(np.uint8)


def read_alignment(path: Path) -> Alignment:
    """Read an alignment to its first row.

    Stockholm, and FASTA whose rows are equally long (gaps written out, lower case in columns of its own as in a2m), are
    read column by column: those in which the first row has a residue are the query's, the others insertions, as in
    AlphaFold's pipeline. Other FASTA is a3m: lower case is an insertion, everything else a column.

    Raises DataError, naming the file and the line, for anything else.
    """
    text = read_text(path)
    if text.lstrip().startswith(STOCKHOLM):
        rows = stockholm_rows(path, text)
        _check_letters(path, rows)
        return _by_columns(path, rows)
    if other := foreign_format(text):
        raise DataError(
            f"{path}: this is {other}, which is not read as an alignment; convert it to a3m, a2m, aligned FASTA or "
            f"Stockholm."
        )
    rows = fasta_rows(path, text, "the query")
    _check_letters(path, rows)
    return _by_columns(path, rows) if _is_rectangular(rows) else _by_case(path, rows)


def merge(alignments: Sequence[Alignment]) -> Alignment:
    """One alignment of several to the same query, in their order, without repetitions.

    Of rows with the same aligned letters, insertions not looked at, the first stays, with its own deletions
    (DeepMind's pipeline; AlphaFold 2, Suppl. 1.2.2). Raises DataError if the queries differ.
    """
    first = alignments[0]
    for other in alignments[1:]:
        if other.query != first.query:
            raise DataError(
                f"the alignments are of different queries: {first.names[0]!r} with {first.letters.shape[1]} residues "
                f"and {other.names[0]!r} with {other.letters.shape[1]}; keep those of one query together."
            )
    stacked = np.concatenate([alignment.letters for alignment in alignments])
    seen: dict[bytes, int] = {}
    for place, row in enumerate(stacked):
        seen.setdefault(row.tobytes(), place)
    kept = list(seen.values())
    names = [name for alignment in alignments for name in alignment.names]
    return Alignment(
        names=[names[place] for place in kept],
        letters=stacked[kept],
        deletions=np.concatenate([alignment.deletions for alignment in alignments])[kept],
    )


def read_fasta(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """Read sequences by themselves, plain or gzip: names, and residue codes uint8 [N] of each.

    Lower case counts as upper case, and a final * as the end. Raises DataError, naming the file and the line, for a
    sequence that is empty or holds something else than residues, as rows of an alignment do.
    """
    rows = fasta_rows(path, read_text(path), "a sequence")
    sequences = []
    for name, header, start, end in zip(rows.names, rows.headers, rows.starts, rows.starts[1:], strict=False):
        sequence = rows.letters[start:end]
        if sequence.size and sequence[-1] == ord("*"):
            sequence = sequence[:-1]
        wrong = np.flatnonzero(~_IS_RESIDUE[sequence])
        if wrong.size:
            place = int(start + wrong[0])
            raise DataError(
                f"{path}, line {rows.line_of(place)}: {_shown(rows, place)} is no residue; the rows of an alignment "
                f"must be equally long, unless the file's name ends in .a3m."
            )
        if not sequence.size:
            raise DataError(
                f"{path}, line {header}: the sequence {name!r} is empty; write its residues or leave it out."
            )
        sequences.append(_CODES[_AS_ALIGNED[sequence]])
    return rows.names, sequences


def is_aligned_fasta(path: Path) -> bool:
    """Whether a FASTA file holds several rows of one length with gaps, so an alignment and not sequences.

    Raises DataError if it is no FASTA.
    """
    rows = fasta_rows(path, read_text(path), "a sequence")
    gaps = np.isin(rows.letters, (_DASH, _DOT)).any()
    return len(rows.names) > 1 and bool(gaps) and _is_rectangular(rows)


def _shown(rows: Rows, place: int) -> str:
    return repr(rows.sequence[place : place + 1])[1:]


def _check_letters(path: Path, rows: Rows) -> None:
    valid = _IS_VALID[rows.letters]
    if not valid.all():
        place = int(np.argmin(valid))
        raise DataError(f"{path}, line {rows.line_of(place)}: {_shown(rows, place)} is neither a residue nor a gap.")


def _is_rectangular(rows: Rows) -> bool:
    """Whether all rows are equally long, and lower case stands in columns of its own, filled up with dots."""
    if (rows.lengths != rows.lengths[0]).any():
        return False
    is_lower = _IS_LOWER[rows.letters]
    if not is_lower.any():
        return True
    aligned = _IS_ALIGNED[rows.letters].reshape(len(rows.names), -1)
    return not (is_lower.reshape(aligned.shape).any(0) & aligned.any(0)).any()


def _by_columns(path: Path, rows: Rows) -> Alignment:
    """The alignment in which the columns of the first row's residues are the query's."""
    written = rows.letters.reshape(len(rows.names), -1)
    of_query = _IS_RESIDUE[written[0]]
    if not of_query.any():
        raise _no_query(path, rows, "it has no residues; put the query's sequence first")
    columns = np.flatnonzero(of_query)
    inserted = np.flatnonzero(~of_query)
    row, place = np.nonzero(_IS_RESIDUE[written[:, inserted]])
    column = np.searchsorted(columns, inserted[place])  # the next one of the query
    inside = column < columns.size
    counts = np.bincount(row[inside] * columns.size + column[inside], minlength=len(written) * columns.size)
    return Alignment(rows.names, _AS_ALIGNED[written[:, columns]], counts.astype(np.int32).reshape(len(written), -1))


def _by_case(path: Path, rows: Rows) -> Alignment:
    """The alignment of an a3m or a2m: capitals and dashes are columns."""
    _check_query(path, rows)
    written = rows.letters
    places = np.flatnonzero(_IS_ALIGNED[written])
    widths = np.diff(np.searchsorted(places, rows.starts))
    unequal = np.flatnonzero(widths != widths[0])
    if unequal.size:
        row = unequal[0]
        raise DataError(
            f"{path}, line {rows.headers[row]}: row {rows.names[row]!r} has {widths[row]} aligned columns, "
            f"but the query has {widths[0]}."
        )
    aligned = written[places].reshape(len(rows.names), -1)
    starts = rows.starts[:-1]
    dots = np.flatnonzero(written == _DOT)
    if dots.size:  # they hold no residue: count places without them
        places, starts = places - np.searchsorted(dots, places), starts - np.searchsorted(dots, starts)
    # Between neighbouring columns only insertions are left.
    deletions = np.diff(places.reshape(aligned.shape), axis=1, prepend=starts[:, None] - 1) - 1
    return Alignment(rows.names, aligned, deletions.astype(np.int32))


def _check_query(path: Path, rows: Rows) -> None:
    """The first row of an a3m must be a plain sequence, for it defines the columns."""
    query = rows.letters[: rows.starts[1]]
    if not _IS_RESIDUE[query].any():
        raise _no_query(path, rows, "it has no residues; put the query's sequence first")
    if (query == _DASH).any():
        raise _no_query(
            path,
            rows,
            "it has gaps, as only an alignment with equally long rows may; put the ungapped query first and align the "
            "rows to its residues",
        )
    if _IS_LOWER[query].any():
        raise _no_query(path, rows, "it has lower-case letters; write the query's residues in upper case")


def _no_query(path: Path, rows: Rows, reason: str) -> DataError:
    return DataError(f"{path}, line {rows.headers[0]}: the first row is no query, for {reason}.")
