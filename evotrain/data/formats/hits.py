"""Lists of template hits, as AlphaFold's pipeline leaves them: HHsearch's hhr and hmmsearch's Stockholm alignment."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from evotrain.data.formats.files import read_text
from evotrain.data.formats.stockholm import STOCKHOLM, stockholm_rows
from evotrain.errors import DataError

# An entry of the PDB (or of a database like it) and the author's name of the chain: 1ABC_A, pdb_00001abc_A, 1abc_A/2-9.
_ENTRY = r"((?i:pdb)_[0-9A-Za-z]{8}|[0-9A-Za-z-]+)"
_NAME = re.compile(rf"{_ENTRY}_([^\s/]+)")
_SHORT_ENTRY = "pdb_0000"  # an entry that has a name of four letters: pdb_00001abc is 1abc
_SUMMARY = re.compile(r"Aligned_cols=(\d+)\s.*\sSum_probs=(\d+\.?\d*)")
_MOLECULE = re.compile(r"\bmol:(\S+)")
_LETTERS = re.compile("[A-Za-z-]*")
# Lines of an hhr alignment start with Q or T (query, template) and a name of up to 14 letters.
_HHR_NAME_END = 17
_HHR_ANNOTATION = {"Consensus", "ss_dssp", "ss_pred", "ss_conf"}


@dataclass(frozen=True, kw_only=True)
class TemplateHit:
    """A stretch of a protein chain, and which of its residues are aligned to which of the query. P pairs are."""

    pdb_id: str  # in lower case
    chain: str  # the author's name
    aligned_columns: int  # as the search tool counts them
    sum_probs: float | None  # HHsearch's expected number of correctly aligned pairs; None of hmmsearch
    sequence: str  # the whole stretch, also residues that are aligned to none of the query
    query_places: np.ndarray  # int32 [P], in the query, increasing
    places: np.ndarray  # int32 [P], in `sequence`, increasing


def read_hits(path: Path, query: str) -> list[TemplateHit]:
    """The hits of a list that was made for the query, plain or gzip, in the file's order; none for an empty file.

    The content tells the format. Hits that are no proteins are left out. Raises DataError for a file that is neither,
    is damaged or belongs to another query.
    """
    text = read_text(path)
    if not text.strip():  # hmmsearch writes no more if it finds nothing
        return []
    if text.startswith(STOCKHOLM):
        return list(_stockholm_hits(path, text, query))
    if text.startswith(b"Query "):
        return list(_hhr_hits(path, text.decode("latin-1").split("\n"), query))
    raise DataError(
        f"{path}: is neither an hhr list, which starts with Query, nor a Stockholm alignment; give what HHsearch or "
        f"hmmsearch has written."
    )


def entry_of_name(name: str) -> str:
    """The PDB entry of a hit or of a protein's id, read as names of hits are; the same for 1ABC and pdb_00001abc."""
    match = re.match(_ENTRY, name)
    return match[1].lower().removeprefix(_SHORT_ENTRY) if match else name.lower()


def _stockholm_hits(path: Path, text: bytes, query: str) -> Iterator[TemplateHit]:
    """The rows of an alignment to a profile of the query: its columns are the capitals and '-'."""
    descriptions = {}
    for line in text.split(b"\n"):
        words = line.split(maxsplit=3)
        if len(words) == 4 and words[0] == b"#=GS" and words[2] == b"DE":
            descriptions[words[1].decode("utf-8", "replace")] = words[3].decode("utf-8", "replace")
    rows = stockholm_rows(path, text)
    for row, name in enumerate(rows.names):
        molecule = _MOLECULE.search(descriptions.get(name, ""))
        if molecule and molecule[1] != "protein":
            continue
        line = int(rows.headers[row])
        letters = rows.sequence[rows.starts[row] : rows.starts[row + 1]].decode("ascii", "replace").replace(".", "")
        if not _LETTERS.fullmatch(letters):
            raise DataError(f"{path}, line {line}: hit {name} holds something else than residues and gaps.")
        columns = re.sub("[a-z]", "", letters)
        if len(columns) != len(query):
            raise DataError(
                f"{path}, line {line}: hit {name} is aligned to {len(columns)} residues, but the query has "
                f"{len(query)}; the hits of another query were put here."
            )
        residues = np.array([letter != "-" for letter in letters])
        aligned = np.array([letter.isupper() for letter in letters])
        at_column = np.array([not letter.islower() for letter in letters])
        yield TemplateHit(
            **_entry(path, line, name),
            aligned_columns=int(aligned.sum()),
            sum_probs=None,
            sequence=letters.replace("-", "").upper(),
            query_places=(at_column.cumsum() - 1)[aligned].astype(np.int32),
            places=(residues.cumsum() - 1)[aligned].astype(np.int32),
        )


def _hhr_hits(path: Path, lines: list[str], query: str) -> Iterator[TemplateHit]:
    """The hits with an alignment; each starts with a line 'No <rank>', below a table that is passed over."""
    starts = [number for number, line in enumerate(lines) if re.fullmatch(r"No \d+\s*", line)]
    for start, end in pairwise([*starts, len(lines)]):
        where = f"{path}, line {start + 1}: hit {lines[start].strip()}"
        summary = _SUMMARY.search(lines[start + 2]) if end - start > 2 else None
        if summary is None or not lines[start + 1].startswith(">"):
            raise DataError(f"{where} has no name or no line of scores; run HHsearch again.")
        aligned_columns = int(summary[1])
        query_start, query_letters = _hhr_row(path, lines, start, end, "Q")
        _, letters = _hhr_row(path, lines, start, end, "T")
        if len(query_letters) != len(letters) or len(letters) < aligned_columns:
            raise DataError(
                f"{where} has {len(query_letters)} letters of the query and {len(letters)} of the template for "
                f"{aligned_columns} aligned columns; the file may be cut off, copy it again."
            )
        in_query, in_template = (np.array([x != "-" for x in row], bool) for row in (query_letters, letters))
        both = in_query & in_template
        offset = _place_in_query(where, query, query_letters.replace("-", ""), query_start)
        yield TemplateHit(
            **_entry(path, start + 2, lines[start + 1][1:]),
            aligned_columns=aligned_columns,
            sum_probs=float(summary[2]),
            sequence=letters.replace("-", ""),
            query_places=(in_query.cumsum() - 1 + offset)[both].astype(np.int32),
            places=(in_template.cumsum() - 1)[both].astype(np.int32),
        )


def _hhr_row(path: Path, lines: list[str], start: int, end: int, side: str) -> tuple[int, str]:
    """Where a row of the alignment starts in its sequence, from 0, and its letters, put together of all blocks."""
    first, letters = 0, ""
    for number in range(start, end):
        line = lines[number]
        if not line.startswith(f"{side} ") or line[2:_HHR_NAME_END].strip() in _HHR_ANNOTATION:
            continue
        match = re.fullmatch(r"\s*(\d+) ([A-Z-]+)\s+(\d+) \(\d+\)\s*", line[_HHR_NAME_END:])
        if match is None or int(match[3]) - int(match[1]) + 1 != len(match[2].replace("-", "")):
            raise DataError(
                f"{path}, line {number + 1}: is no row of an alignment, which has its first residue's number, letters "
                f"and its last residue's number; copy the file again."
            )
        first = first if letters else int(match[1]) - 1
        letters += match[2]
    return first, letters


def _place_in_query(where: str, query: str, letters: str, start: int) -> int:
    """Where the letters stand in the query: where the list says, else (of another construct) where they are found."""
    for place in (start, query.find(letters)):
        stretch = query[place : place + len(letters)] if place >= 0 else ""
        if len(stretch) == len(letters) and all(a == b or "X" in (a, b) for a, b in zip(stretch, letters, strict=True)):
            return place
    raise DataError(f"{where} aligns residues that the query does not have; the hits of another query were put here.")


def _entry(path: Path, line: int, name: str) -> dict[str, str]:
    match = _NAME.match(name)
    if match is None:
        raise DataError(f"{path}, line {line}: hit {name.split(' ')[0]!r} is not named <PDB entry>_<chain>.")
    return {"pdb_id": match[1].lower(), "chain": match[2]}
