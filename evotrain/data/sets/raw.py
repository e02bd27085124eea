"""Real proteins on disk as they come: alignments, structures and templates in files of their own.

<root>/<id>/msa.a3m[.gz]          or another of the layouts that `evotrain.data.sets.layout` describes
<root>/<id>/structure.cif[.gz]    likewise; also <structures>/<id>.cif or <structures>/<PDB entry>.cif
<root>/<id>/pdb70_hits.hhr        optional: templates, from <template_structures>/<PDB entry>.cif
<root>/index.csv                  optional; its columns id, chain, split and cluster are used
"""

from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np

from evotrain.data.formats.alignment import Alignment, merge, read_alignment
from evotrain.data.formats.feature_dict import FeatureDict, read_feature_dict, read_labels
from evotrain.data.formats.hits import entry_of_name, read_hits
from evotrain.data.formats.structure import Chain, read_chain
from evotrain.data.formats.template_arrays import read_templates
from evotrain.data.protein import Protein, Templates
from evotrain.data.sets.facts import Facts, facts_of
from evotrain.data.sets.index import INDEX_FILE, read_index
from evotrain.data.sets.layout import Files, find_proteins, left_out
from evotrain.data.sets.templates import find_templates
from evotrain.data_config import ProteinSetConfig
from evotrain.errors import DataError

# Parsed proteins that a process keeps in memory: a data set of a few hundred is parsed once, not every epoch.
CACHE_BYTES = 256 * 2**20


class RawSet:
    """The proteins of a directory, or of one a3m file, by id.

    Raises DataError if there is no such directory, if nothing in it can be used, or if there is no directory of
    template structures; RunError where the disk or network fails.
    """

    def __init__(self, config: ProteinSetConfig):
        self.root = Path(config.root)
        self._directory = self.root.parent if self.root.is_file() else self.root
        self._files, self.unusable = find_proteins(
            self.root,
            config.structures and Path(config.structures),
            with_hits=bool(config.template_structures),
        )
        self.ids = list(self._files)  # sorted
        self.index = read_index(self._directory / INDEX_FILE)
        if self.root.is_file():
            self.index = {name: row for name, row in self.index.items() if name in self._files}
        self._templates = config.template_structures and Path(config.template_structures)
        if self._templates and not self._templates.is_dir():
            raise DataError(
                f"data.template_structures={self._templates}: no such directory (it would be "
                f"{self._templates.absolute()})."
            )
        self._templates_before = config.templates_before
        self._cache = ProteinCache(CACHE_BYTES)

    @property
    def description(self) -> str:
        """What is left out and why; '' if nothing is."""
        absent = len(self.index.keys() - self._files.keys() - self.unusable.keys())
        remarks = [left_out(self.unusable)] if self.unusable else []
        remarks += [f"{absent} ids of {INDEX_FILE} without files"] if absent else []
        return "; ".join(remarks)

    def read(self, name: str) -> Protein:
        """The protein with that id, its arrays read-only.

        Raises DataError if its files cannot be used, RunError where the disk or network fails.
        """
        protein = self._cache.get(name)
        if protein is None:
            protein = self._read(name)
            for array in _arrays(protein):
                array.flags.writeable = False  # the cache hands the same arrays out again
            self._cache.put(protein)
        return protein

    def facts(self, name: str) -> Facts:
        """The facts of a protein; all of it is read for them. Raises as `read` does."""
        return facts_of(self.read(name))

    def files(self, name: str) -> list[Path]:
        """What the protein is read from, but not the structures that its list of hits names."""
        files = self._files[name]
        single = [files.features, files.structure, files.labels, files.templates, files.hits]
        paths = [path for path, _ in files.alignments] + [path for path in single if path is not None]
        return [self._directory / path for path in paths]

    def _read(self, name: str) -> Protein:
        files = self._files[name]
        given = read_feature_dict(self._directory / files.features) if files.features else self._read_alignments(files)
        chain = self.index.get(name, {}).get("chain") or files.chain
        if files.labels:
            observed = read_labels(self._directory / files.labels, given.query)
        else:
            observed = read_chain(self._directory / files.structure, chain, given.query)
        return Protein(
            name=name,
            msa=given.msa,
            deletions=given.deletions,
            atom_positions=observed.atom_positions,
            atom_mask=observed.atom_mask,
            residue_index=given.residue_index,
            b_factor=observed.b_factor,
            resolution=observed.resolution,
            release_date=observed.release_date,
            templates=self._read_templates(name, files, given, observed),
        )

    def _read_alignments(self, files: Files) -> FeatureDict:
        """The alignments of the protein as one, each row once."""
        parts = []
        for path, most in files.alignments:
            part = read_alignment(self._directory / path)
            parts.append(Alignment(part.names[:most], part.letters[:most], part.deletions[:most]))
        try:
            merged = merge(parts)
        except DataError as error:
            raise DataError(f"{self._directory / files.alignments[0][0]}: {error}") from None
        return FeatureDict(
            msa=merged.codes,
            deletions=merged.deletions,
            residue_index=np.arange(merged.letters.shape[1], dtype=np.int32),
            templates=None,
        )

    def _read_templates(self, name: str, files: Files, given: FeatureDict, observed: Chain) -> Templates | None:
        """Templates as they were given, else the hits that were released before the protein's own structure."""
        if files.templates:
            return read_templates(self._directory / files.templates, len(given.query))
        if given.templates is not None or files.hits is None:
            return given.templates
        dates = [date for date in (self._templates_before, observed.release_date) if date]
        return find_templates(
            given.query,
            read_hits(self._directory / files.hits, given.query),
            self._templates,
            before=min(dates, default=None),
            own_entry=entry_of_name(name),
        )


class ProteinCache:
    """The proteins used last, up to a number of bytes; safe for threads, sent empty to other processes."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._bytes = 0
        self._proteins: OrderedDict[str, Protein] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self):
        return ProteinCache, (self._max_bytes,)

    def get(self, name: str) -> Protein | None:
        with self._lock:
            if name in self._proteins:
                self._proteins.move_to_end(name)
            return self._proteins.get(name)

    def put(self, protein: Protein) -> None:
        with self._lock:
            if protein.name in self._proteins:
                return
            self._proteins[protein.name] = protein
            self._bytes += size(protein)
            while self._bytes > self._max_bytes:
                self._bytes -= size(self._proteins.popitem(last=False)[1])


def size(protein: Protein) -> int:
    """Bytes of a protein's arrays."""
    return sum(array.nbytes for array in _arrays(protein))


def _arrays(protein: Protein) -> list[np.ndarray]:
    values = [*vars(protein).values(), *(vars(protein.templates).values() if protein.templates else ())]
    return [value for value in values if isinstance(value, np.ndarray)]
