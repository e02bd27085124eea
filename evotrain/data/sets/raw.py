"""Real proteins on disk: a directory with one folder a protein, holding an alignment and a structure.

    <root>/<id>/msa.a3m[.gz]
    <root>/<id>/structure.cif[.gz] or structure.pdb[.gz]
    <root>/<id>/templates.npz         optional; AlphaFold's template_… arrays
    <root>/index.csv                  optional; its columns id, chain, split and cluster are used

The proteins held out for evaluation are those that the split column names, else whole clusters, else single proteins.
"""

import csv
import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np

from evotrain.data.features.templates import read_templates
from evotrain.data.formats.alignment import letters, read_a3m
from evotrain.data.formats.structure import read_chain
from evotrain.data.protein import Protein
from evotrain.data_config import MsaDirConfig
from evotrain.errors import DataError
from evotrain.explain import did_you_mean

ALIGNMENT_FILES = ("msa.a3m", "msa.a3m.gz")
STRUCTURE_FILES = ("structure.cif", "structure.cif.gz", "structure.pdb", "structure.pdb.gz")
TEMPLATE_FILE = "templates.npz"
TRAIN_WORDS = {"train", "training"}
HELD_OUT_WORDS = {"eval", "evaluation", "val", "valid", "validation", "test", "held_out", "held-out", "heldout"}

# Parsed proteins that a process keeps in memory: a data set of a few hundred is parsed once, not every epoch.
CACHE_BYTES = 256 * 2**20


class MsaDir:
    """The proteins of a directory, by id.

    `train_ids` and `held_out_ids` are sorted and depend on the directory and `eval_fraction` alone, so that no seed
    moves a protein from one side to the other. Raises DataError if there is no such directory, if nothing in it can be
    used, if the split leaves one side empty, or if `data.only` names no protein of it.
    """

    def __init__(self, config: MsaDirConfig):
        self.root = Path(config.root)
        self._files, self._unusable = _scan(self.root)
        self._index = _read_index(self.root / "index.csv")
        ids = sorted(self._files)
        if config.only is None:
            held_out, self._rule = _split(self.root, ids, self._index, config.eval_fraction)
            self.train_ids = [name for name in ids if name not in held_out]
        elif config.only in self._files:
            self.train_ids, held_out, self._rule = [config.only], {config.only}, "data.only, the same one"
        else:
            raise DataError(
                f"data.only={config.only} is not a protein of {self.root}{did_you_mean(config.only, ids)} The first "
                f"of {len(ids)} is {ids[0]}."
            )
        self.held_out_ids = sorted(held_out)
        if not (self.train_ids and self.held_out_ids):
            raise DataError(
                f"{self.root}: no protein is left to {'evaluate on' if self.train_ids else 'train on'} "
                f"({self.description}); change data.eval_fraction, or give index.csv a split column with train and val."
            )
        self._place = {
            name: (ids, place) for ids in (self.train_ids, self.held_out_ids) for place, name in enumerate(ids)
        }
        self._cache = _ProteinCache(CACHE_BYTES)

    @property
    def description(self) -> str:
        """One line for the console."""
        absent = len(self._index.keys() - self._files.keys() - self._unusable.keys())
        return (
            f"{len(self._files)} proteins, {len(self.train_ids)} train, {len(self.held_out_ids)} held out "
            f"(by {self._rule}){_left_out(self._unusable)}"
            + (f"; {absent} ids of index.csv without files" if absent else "")
        )

    def read(self, name: str) -> Protein:
        """The protein with that id, its arrays read-only. Raises DataError if its files cannot be used."""
        protein = self._cache.get(name)
        if protein is None:
            chain = self._index.get(name, {}).get("chain") or None
            protein = _read_protein(name, *self._files[name], chain)
            self._cache.put(protein)
        return protein

    def load(self, name: str) -> tuple[Protein, str]:
        """The protein and ''; or, if it cannot be read, the next of its split that can and "<id>: <reason>".

        Raises DataError if no protein of the split can be read.
        """
        ids, place = self._place[name]
        failure = ""
        for step in range(len(ids)):
            try:
                return self.read(ids[(place + step) % len(ids)]), failure
            except DataError as error:
                failure = failure or f"{name}: {error}"
        raise DataError(f"{self.root}: none of the {len(ids)} proteins of the split can be read; {failure}")


class _ProteinCache:
    """The proteins used last, up to a number of bytes; safe for threads, sent empty to other processes."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._bytes = 0
        self._proteins: OrderedDict[str, Protein] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self):
        return _ProteinCache, (self._max_bytes,)

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
            self._bytes += _size(protein)
            while self._bytes > self._max_bytes:
                self._bytes -= _size(self._proteins.popitem(last=False)[1])


def _arrays(protein: Protein) -> list[np.ndarray]:
    values = [*vars(protein).values(), *(vars(protein.templates).values() if protein.templates else ())]
    return [value for value in values if isinstance(value, np.ndarray)]


def _size(protein: Protein) -> int:
    return sum(array.nbytes for array in _arrays(protein))


def _read_protein(name: str, alignment: Path, structure: Path, chain: str | None) -> Protein:
    _, msa, deletions = read_a3m(alignment)
    positions, mask, resolution = read_chain(structure, chain, letters(msa[0]))
    templates = alignment.parent / TEMPLATE_FILE
    protein = Protein(
        name=name,
        msa=msa,
        deletions=deletions,
        atom_positions=positions,
        atom_mask=mask,
        residue_index=np.arange(msa.shape[1], dtype=np.int32),
        b_factor=np.zeros(msa.shape[1], np.float32),
        resolution=resolution,
        templates=read_templates(templates, msa.shape[1]) if templates.is_file() else None,
    )
    for array in _arrays(protein):
        array.flags.writeable = False  # the cache hands the same arrays out again
    return protein


def _scan(root: Path) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Alignment and structure of every id, and why other folders cannot be used; one without either is no protein."""
    try:
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    except FileNotFoundError:
        raise DataError(f"data.root={root}: no such directory (it would be {root.absolute()}).") from None
    except OSError as error:
        raise DataError(f"data.root={root}: cannot be listed as a directory ({error.strerror}).") from None
    files, unusable = {}, {}
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                present = {entry.name for entry in entries if entry.is_file()}
        except OSError as error:
            unusable[folder.name] = f"cannot be read ({error.strerror})"
            continue
        alignments = [name for name in ALIGNMENT_FILES if name in present]
        structures = [name for name in STRUCTURE_FILES if name in present]
        if reason := _unusable(alignments, structures):
            unusable[folder.name] = reason
        elif alignments:
            files[folder.name] = folder / alignments[0], folder / structures[0]
    if not files:
        raise DataError(
            f"data.root={root}: none of its {len(folders)} folders is a protein{_left_out(unusable)}; each needs "
            f"msa.a3m[.gz] and structure.cif[.gz] or structure.pdb[.gz]."
        )
    return files, unusable


def _unusable(alignments: list[str], structures: list[str]) -> str:
    """What is wrong with a folder that holds these files, '' if nothing is or if it holds none."""
    for found in (alignments, structures):
        if len(found) > 1:
            return f"has both {found[0]} and {found[1]}"
    if bool(alignments) == bool(structures):
        return ""
    return "has no structure" if alignments else "has no alignment"


def _left_out(unusable: dict[str, str]) -> str:
    """A clause that counts the folders and names the first one; '' if there is none."""
    if not unusable:
        return ""
    name, reason = next(iter(unusable.items()))
    if len(unusable) == 1:
        return f"; 1 folder left out ({name} {reason})"
    return f"; {len(unusable)} folders left out ({name} {reason}, …)"


def _read_index(path: Path) -> dict[str, dict[str, str]]:
    """The rows of index.csv by id; empty where there is no such file."""
    if not path.is_file():
        return {}
    index: dict[str, dict[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "id" not in (reader.fieldnames or []):
                raise DataError(f"{path}: has no column id; its first line must name the columns.")
            for row in reader:
                name = (row["id"] or "").strip()
                if name in index:
                    raise DataError(f"{path}, line {reader.line_num}: the id {name!r} is there twice; keep one row.")
                index[name] = {column: (row.get(column) or "").strip() for column in ("chain", "split", "cluster")}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a comma-separated table ({error}).") from None
    return index


def _split(root: Path, ids: list[str], index: dict[str, dict[str, str]], eval_fraction: float) -> tuple[set[str], str]:
    """The ids held out, and the rule that chose them."""
    words = {name: index.get(name, {}).get("split", "").lower() for name in ids}
    if any(word in TRAIN_WORDS | HELD_OUT_WORDS for word in words.values()):
        for name, word in words.items():
            if word not in TRAIN_WORDS | HELD_OUT_WORDS:
                raise DataError(
                    f"{root / 'index.csv'}: the split of {name!r} is {word!r}; write train or val for every protein."
                )
        return {name for name in ids if words[name] in HELD_OUT_WORDS}, "split"
    clusters = {name: index.get(name, {}).get("cluster") or name for name in ids}
    rule = "id" if all(clusters[name] == name for name in ids) else "cluster"
    return {name for name in ids if _fraction(clusters[name]) < eval_fraction}, rule


def _fraction(word: str) -> float:
    """A number in [0, 1) that is the same in every process, and as good as random between words."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") / 2**32
