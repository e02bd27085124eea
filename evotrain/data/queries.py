"""The proteins that a prediction is asked for: alignments and sequences, by files and directories."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from evotrain.data.formats.alignment import FASTA_SUFFIXES, SUFFIXES, is_aligned_fasta, read_alignment, read_fasta
from evotrain.data.formats.files import split_name
from evotrain.data.formats.template_arrays import TEMPLATE_FILE, read_templates
from evotrain.data.protein import NUM_ATOMS, Protein, Templates
from evotrain.errors import DataError

FOLDER_STEM = "msa"  # of the alignment in a protein's folder, whose name is then the protein's
LONGEST_NAME = 100  # of a folder


@dataclass(frozen=True)
class Query:
    """A protein to predict. `load` reads it: a Protein without coordinates; it raises DataError."""

    name: str  # letters, digits and . _ + = - only: it names a folder
    load: Callable[[], Protein]


def find_queries(path: Path) -> list[Query]:
    """The queries of an alignment, of a FASTA file, or of a directory, sorted by name.

    Each sequence of a FASTA file is a query, unless the file holds several equally long rows with gaps: that is an
    alignment to its first row. An alignment is named after its file, `msa.a3m` after its folder, a sequence after its
    header. A directory stands for its alignments and FASTA files and for the alignment `msa.…` of its folders;
    `templates.npz` beside these is read too.

    Raises:
      DataError: nothing is there to predict, a FASTA file cannot be read, or two queries have the same name.
    """
    if path.is_dir():
        files = [file for file in _list(path) if _is_query(file)]
        folders = [folder for folder in _list(path) if folder.is_dir()]
        files += [file for folder in folders for file in _list(folder) if _is_query(file) and _is_of_folder(file)]
        queries = [query for file in files for query in _of_file(file)]
        if not queries:
            raise DataError(f"{path}: holds nothing to predict; put files *.a3m, *.sto or *.fasta into it.")
    elif not path.exists():
        raise DataError(f"{path}: no such file or directory (it would be {path.absolute()}).")
    else:
        queries = _of_file(path)
    names = [query.name for query in queries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: two queries are called {twice[0]}, and one would overwrite the other; rename one.")
    return sorted(queries, key=lambda query: query.name)


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}).") from None


def _is_query(path: Path) -> bool:
    return split_name(path.name)[1] in SUFFIXES and path.is_file()


def _is_of_folder(path: Path) -> bool:
    """Whether the folder's name is that of the protein."""
    return split_name(path.name)[0] == FOLDER_STEM


def _of_file(path: Path) -> list[Query]:
    stem, suffix = split_name(path.name)
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise DataError(
            f"{path}: is it an alignment or sequences? Give it a name that ends in one of {known} (or that and .gz)."
        )
    if suffix not in FASTA_SUFFIXES or is_aligned_fasta(path):
        return [Query(_safe(path.absolute().parent.name if _is_of_folder(path) else stem), partial(_read, path))]
    return [
        Query(_safe(name or stem), partial(_protein, name, sequence[None], np.zeros((1, len(sequence)), np.int32)))
        for name, sequence in zip(*read_fasta(path), strict=True)
    ]


def _read(path: Path) -> Protein:
    alignment = read_alignment(path)
    templates = path.parent / TEMPLATE_FILE
    beside = _is_of_folder(path) and templates.is_file()
    length = alignment.letters.shape[1]
    return _protein(
        alignment.names[0],
        alignment.codes,
        alignment.deletions,
        read_templates(templates, length) if beside else None,
    )


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
