"""Alignments and sequences as files.

In an a3m, rows are aligned to a query, with lower-case letters where a row has residues that the query lacks. A FASTA
file holds sequences by themselves.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from evotrain.data.protein import GAP, RESIDUES, UNKNOWN
from evotrain.errors import DataError

# Letters beyond the twenty residues, read as HHblits and AlphaFold read them.
_AMBIGUOUS = {"B": "D", "Z": "E", "U": "C", "J": "X", "O": "X"}
_INSERTED, _PADDING, _INVALID = 253, 254, 255


def _letter_codes() -> np.ndarray:
    """Code of every byte, uint8 [256]."""
    codes = np.full(256, _INVALID, np.uint8)
    for code, letter in enumerate(RESIDUES):
        codes[ord(letter)] = code
    codes[ord("X")] = UNKNOWN
    codes[ord("-")] = GAP
    for letter, meaning in _AMBIGUOUS.items():
        codes[ord(letter)] = codes[ord(meaning)]
    codes[ord("a") : ord("z") + 1] = _INSERTED
    codes[ord(".")] = _PADDING  # a2m: another row's insertion, so no residue of this one
    return codes


_CODES = _letter_codes()


def letters(codes: np.ndarray) -> str:
    """The one-letter sequence of residue codes uint8 [N]; X for unknown, - for a gap."""
    return "".join((RESIDUES + "X-")[code] for code in codes)


def encode(sequence: str) -> np.ndarray:
    """Residue codes uint8 [N] of capital letters; a letter that is no residue is unknown."""
    codes = _CODES[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]
    return np.where(codes <= GAP, codes, UNKNOWN).astype(np.uint8)


def read_a3m(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Read an a3m (or a2m) file, plain or gzip: names [M], msa uint8 [M, N], deletions int32 [M, N].

    A deletion count is the number of inserted residues (lower case) left of a column; those after the last column
    belong to none. Raises DataError, naming the file and the line, for a file that is no alignment to its first row.
    """
    names, headers, lines, numbers = _split_records(path, _read_text(path), "an a3m", "the query")
    lengths = np.array([len(line) for line in lines], int)
    sequence = b"".join(lines)
    codes = _CODES[np.frombuffer(sequence, np.uint8)]
    invalid = np.flatnonzero(codes == _INVALID)
    if invalid.size:
        line = int(np.searchsorted(np.cumsum(lengths), invalid[0], side="right"))
        letter = sequence[invalid[0] : invalid[0] + 1].decode("ascii", "backslashreplace")
        raise DataError(f"{path}, line {numbers[line]}: {letter!r} is neither a residue nor a gap.")

    # Letters of a record: from its first line's start to the next record's.
    starts = np.concatenate([[0], np.cumsum(lengths)])[np.searchsorted(numbers, headers)]
    ends = np.append(starts[1:], codes.size)
    aligned = codes <= GAP
    columns_before = np.concatenate([[0], np.cumsum(aligned)])
    widths = columns_before[ends] - columns_before[starts]
    _check_query(path, codes[: ends[0]], headers[0])
    unequal = np.flatnonzero(widths != widths[0])
    if unequal.size:
        row = unequal[0]
        raise DataError(
            f"{path}, line {headers[row]}: row {names[row]!r} has {widths[row]} aligned columns, "
            f"but the query has {widths[0]}."
        )

    msa = codes[aligned].reshape(len(names), -1)
    inserted_before = np.concatenate([[0], np.cumsum(codes == _INSERTED, dtype=np.int32)])
    at_column = inserted_before[:-1][aligned].reshape(msa.shape)
    deletions = np.diff(at_column, axis=1, prepend=inserted_before[starts][:, None]).astype(np.int32)
    return names, msa, deletions


def read_fasta(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """Read a FASTA file, plain or gzip: names, and residue codes uint8 [N] of each sequence.

    Lower case counts as upper case, and a final * as the end. Raises DataError, naming the file and the line, for a
    sequence that is empty or holds something else than residues, as rows of an alignment do.
    """
    names, headers, lines, numbers = _split_records(path, _read_text(path), "a FASTA", "a sequence")
    sequences: list[list[np.ndarray]] = [[] for _ in names]
    for line, number in zip(lines, numbers, strict=True):
        record = int(np.searchsorted(headers, number)) - 1
        codes = _CODES[np.frombuffer(line.rstrip(b"*").upper(), np.uint8)]
        if (codes > UNKNOWN).any():
            letter = chr(line[int(np.argmax(codes > UNKNOWN))])
            raise DataError(
                f"{path}, line {number}: {letter!r} is no residue; an alignment needs a name that ends in .a3m."
            )
        sequences[record].append(codes)
    for name, header, sequence in zip(names, headers, sequences, strict=True):
        if not sum(map(len, sequence)):
            raise DataError(
                f"{path}, line {header}: the sequence {name!r} is empty; write its residues or leave it out."
            )
    return names, [np.concatenate(sequence) for sequence in sequences]


def _read_text(path: Path) -> bytes:
    """The file's bytes, decompressed, with '\\n' line ends."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the file again.") from None
    # MMseqs2 and ColabFold separate blocks with NUL; alone on its line start it must not change the line numbers.
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data.replace(b"\n\0", b"\n").replace(b"\0", b"\n")


def _split_records(
    path: Path, text: bytes, kind: str, first: str
) -> tuple[list[str], np.ndarray, list[bytes], np.ndarray]:
    """Names and line numbers of the headers, then every line of sequence with its number.

    `kind` is the format and `first` what its first record is, for messages.
    """
    names, headers, lines, numbers = [], [], [], []
    for number, line in enumerate(text.split(b"\n"), start=1):
        line = line.strip()
        if line.startswith(b">"):
            words = line[1:].split(maxsplit=1)
            names.append(words[0].decode("utf-8", "replace") if words else "")
            headers.append(number)
        elif line and not line.startswith(b"#"):
            if not names:
                raise DataError(f"{path}, line {number}: {kind} file starts with '>name' of {first}, not with this.")
            lines.append(line)
            numbers.append(number)
    if not names:
        raise DataError(f"{path}: the file is empty; {kind} needs at least {first}: '>name' and its sequence.")
    return names, np.array(headers), lines, np.array(numbers, int)


def _check_query(path: Path, codes: np.ndarray, header: int) -> None:
    """The first row must be a plain sequence, for it defines the columns."""
    where = f"{path}, line {header}: the first row is no query"
    if not (codes != _PADDING).any():
        raise DataError(f"{where}, for it has no residues; put the query's sequence first.")
    if (codes == GAP).any():
        raise DataError(f"{where}, for it has gaps; put the ungapped query first and align the rows to its residues.")
    if (codes == _INSERTED).any():
        raise DataError(f"{where}, for it has lower-case letters; write the query's residues in upper case.")
