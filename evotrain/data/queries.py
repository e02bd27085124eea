"""The proteins that a prediction is asked for: alignments and sequences, by files and directories."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from evotrain.data.features.templates import read_templates
from evotrain.data.formats.alignment import read_a3m, read_fasta
from evotrain.data.protein import NUM_ATOMS, Protein, Templates
from evotrain.data.sets.raw import ALIGNMENT_FILES, TEMPLATE_FILE
from evotrain.errors import DataError

A3M_SUFFIXES = (".a3m", ".a3m.gz")
FASTA_SUFFIXES = (".fasta", ".fa", ".faa", ".fasta.gz", ".fa.gz", ".faa.gz")
LONGEST_NAME = 100  # of a folder


@dataclass(frozen=True)
class Query:
    """A protein to predict. `load` reads it: a Protein without coordinates; it raises DataError."""

    name: str  # letters, digits and . _ + = - only: it names a folder
    load: Callable[[], Protein]


def find_queries(path: Path) -> list[Query]:
    """The queries of an a3m, of a FASTA file (each of its sequences alone), or of a directory, sorted by name.

    An alignment is named after its file, `msa.a3m` after its folder, a sequence after its header. A directory stands
    for its a3m and FASTA files and for the `msa.a3m[.gz]` of its folders; `templates.npz` beside these is read too.

    Raises:
      DataError: nothing is there to predict, a FASTA file cannot be read, or two queries have the same name.
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.name.endswith(A3M_SUFFIXES + FASTA_SUFFIXES)]
        files += [folder / name for folder in sorted(path.iterdir()) for name in ALIGNMENT_FILES]
        queries = [query for file in files if file.is_file() for query in _of_file(file)]
        if not queries:
            raise DataError(f"{path}: holds nothing to predict; put files *.a3m or *.fasta into it.")
    elif not path.exists():
        raise DataError(f"{path}: no such file or directory (it would be {path.absolute()}).")
    else:
        queries = _of_file(path)
    names = [query.name for query in queries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: two queries are called {twice[0]}, and one would overwrite the other; rename one.")
    return sorted(queries, key=lambda query: query.name)


def _of_file(path: Path) -> list[Query]:
    if path.name.endswith(A3M_SUFFIXES):
        stem = path.name.removesuffix(".gz").removesuffix(".a3m")
        name = path.absolute().parent.name if path.name in ALIGNMENT_FILES else stem
        return [Query(_safe(name), partial(_read, path))]
    if not path.name.endswith(FASTA_SUFFIXES):
        known = ", ".join(A3M_SUFFIXES + FASTA_SUFFIXES)
        raise DataError(f"{path}: is it an alignment or sequences? Give it a name that ends in one of {known}.")
    stem = path.name.partition(".")[0]
    return [
        Query(_safe(name or stem), partial(_protein, name, sequence[None], np.zeros((1, len(sequence)), np.int32)))
        for name, sequence in zip(*read_fasta(path), strict=True)
    ]


def _read(path: Path) -> Protein:
    names, msa, deletions = read_a3m(path)
    templates = path.parent / TEMPLATE_FILE
    beside = path.name in ALIGNMENT_FILES and templates.is_file()
    return _protein(names[0], msa, deletions, read_templates(templates, msa.shape[1]) if beside else None)


def _protein(name: str, msa: np.ndarray, deletions: np.ndarray, templates: Templates | None = None) -> Protein:
    length = msa.shape[1]
    return Protein(
        name=name,
        msa=msa,
        deletions=deletions,
        atom_positions=np.zeros((length, NUM_ATOMS, 3), np.float32),
        atom_mask=np.zeros((length, NUM_ATOMS), np.float32),
        residue_index=np.arange(length, dtype=np.int32),
        b_factor=np.zeros(length, np.float32),
        templates=templates,
    )


def _safe(name: str) -> str:
    """A name for a folder, on any file system."""
    return re.sub(r"[^\w.+=-]", "_", name)[:LONGEST_NAME].lstrip(".") or "query"
