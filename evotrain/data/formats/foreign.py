"""Formats that turn up where an alignment is expected, recognised so that the message can name them."""

import re

# By how the text starts.
_BY_START = {
    "an .npz file of arrays": rb"PK",
    "an HHsearch result (.hhr)": rb"Query +\S",
    "Clustal": rb"(CLUSTAL|MUSCLE|PROBCONS)\b",
    "PHYLIP": rb"\s*\d+\s+\d+\s*\n",
    "an HMM": rb"(HMMER3/|HHsearch 1)",
    "mmCIF": rb"data_",
}
# By every line, blank ones and comments left out.
_BY_LINES = {
    "PSICOV .aln (a row on each line, without names)": rb"[A-Za-z.-]+",
    "SELEX (a name and a row on each line, without Stockholm's first line '# STOCKHOLM 1.0')": rb"\S+\s+[A-Za-z.-]+|//",
}


def foreign_format(text: bytes) -> str:
    """What a file that is neither Stockholm nor FASTA is; '' where that cannot be said."""
    for name, pattern in _BY_START.items():
        if re.match(pattern, text):
            return name
    if re.search(rb"^\s*>", text, re.MULTILINE):
        return ""
    lines = [line for line in map(bytes.strip, text.split(b"\n")) if line and not line.startswith(b"#")]
    for name, pattern in _BY_LINES.items():
        if lines and all(re.fullmatch(pattern, line) for line in lines):
            return name
    return ""
