"""A set of proteins on disk, raw or prepared: which of both it is, is seen from the directory."""

from pathlib import Path
from typing import Protocol

from evotrain.data.protein import Protein
from evotrain.data.sets.facts import Facts
from evotrain.data.sets.index import Index
from evotrain.data.sets.raw import RawSet
from evotrain.data_config import ProteinSetConfig

PREPARED_FILE = "prepared.json"  # stands in every prepared directory, and in no other


class ProteinSet(Protocol):
    """Proteins by id. It is sent to worker processes, and used by several threads at once."""

    root: Path
    ids: list[str]  # sorted
    unusable: dict[str, str]  # what looks like a protein, but is none, and why
    index: Index  # chain, split and cluster by id
    description: str  # remarks for the console, joined by '; '; empty if there are none

    def read(self, name: str) -> Protein:
        """The protein with that id, its arrays read-only. Raises DataError if it cannot be read."""

    def facts(self, name: str) -> Facts:
        """The facts of the protein with that id. Raises DataError if they cannot be known."""

    def files(self, name: str) -> list[Path]:
        """The files that this protein is read from."""


def open_set(config: ProteinSetConfig) -> ProteinSet:
    """The set of proteins in `config.root`. Raises DataError if it cannot be used."""
    if (Path(config.root) / PREPARED_FILE).is_file():
        from evotrain.data.sets.prepared import PreparedSet  # raw files are read without ArrayRecord

        return PreparedSet(config)
    return RawSet(config)
