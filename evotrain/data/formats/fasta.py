"""FASTA, and what is written like it (a3m, a2m): '>name description' and then lines of letters."""

import re
from pathlib import Path

from evotrain.data.formats.rows import Rows, make_rows
from evotrain.errors import DataError

# ColabFold's first line for a complex: the lengths of its chains, then how often each is there.
_COMPLEX = re.compile(rb"#\d+(,\d+)+\s")


def fasta_rows(path: Path, text: bytes, first: str) -> Rows:
    """Names up to the first blank, and letters without blank lines and comments ('#').

    `first` is what the first record is, for messages. Raises DataError for a text without any record, for letters
    before the first name, and for the joined chains of a complex.
    """
    if _COMPLEX.match(text):
        raise DataError(f"{path}, line 1: this alignment is of a complex of several chains; give each chain its own.")
    names, headers, pieces, rows, numbers = [], [], [], [], []
    for number, line in enumerate(text.split(b"\n"), start=1):
        line = line.strip()
        if line.startswith(b">"):
            words = line[1:].split(maxsplit=1)
            names.append(words[0].decode("utf-8", "replace") if words else "")
            headers.append(number)
        elif line and not line.startswith(b"#"):
            if not names:
                raise DataError(f"{path}, line {number}: the file starts with '>name' of {first}, not with this.")
            pieces.append(line)
            rows.append(len(names) - 1)
            numbers.append(number)
    if not names:
        raise DataError(f"{path}: the file is empty; it needs at least {first}: '>name' and its sequence.")
    return make_rows(names, headers, pieces, rows, numbers)
