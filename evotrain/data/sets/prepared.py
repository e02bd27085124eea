"""Proteins as `command=prepare` wrote them: ArrayRecord files, with an index that says what is where.

    <root>/prepared.json                            format, settings, files, fingerprint
    <root>/index.npy                                a row a protein: file and record, facts, chain, split and cluster
    <root>/proteins-00000-of-00001.array_record     records of `evotrain.data.sets.records`, a chunk each

The proteins are those of the raw files, also the ones that could not be read: they are asked for and replaced alike, so
that a run does not depend on which of the two it reads.
"""

import json
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from evotrain.data.protein import Protein
from evotrain.data.sets.facts import Facts
from evotrain.data.sets.index import COLUMNS as SPLIT_COLUMNS
from evotrain.data.sets.index import Index
from evotrain.data.sets.protein_set import PREPARED_FILE
from evotrain.data.sets.records import decode_protein
from evotrain.data_config import PREPARED_KEYS, ProteinSetConfig
from evotrain.errors import ConfigError, DataError

FORMAT = 1
TABLE_FILE = "index.npy"
# Columns of the index. Text is UTF-8, as wide as the longest; a protein that could not be read is in the file -1.
NUMBERS = {"file": "<i4", "record": "<i4", "length": "<i4", "rows": "<i4", "resolution": "<f8", "repeat": "<f8"}
TEXTS = ("id", "release_date", *SPLIT_COLUMNS)

# One record at a time, without reading ahead.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
READER_BUFFER = 2**15  # bytes
# An open file costs a descriptor, of which a process may have as few as 1024.
OPEN_FILES = 256


class PreparedSet:
    """The proteins of a prepared directory, by id.

    `ids` are sorted. Only the index is in memory; it is read again, not sent, where the set goes to another process.

    Raises:
      DataError: the directory is not completely prepared, of another version, or lacks one of its files.
      ConfigError: a setting that had to be chosen when the files were prepared.
    """

    def __init__(self, config: ProteinSetConfig):
        for name in PREPARED_KEYS:
            if (value := getattr(config, name)) is not None:
                raise ConfigError(
                    f"data.{name}={value} changes nothing for the prepared files in {config.root}: leave it out, or "
                    "prepare the raw files with it."
                )
        self._config = config
        self._load()
        for file in self._manifest["files"]:
            _check_size(self.root / file["name"], file["bytes"])

    def _load(self) -> None:
        self.root = Path(self._config.root)
        self._manifest = read_manifest(self.root)
        self.unusable: dict[str, str] = self._manifest["unusable"]
        self._failures: dict[str, str] = self._manifest["unreadable"]
        self._table = _read_table(self.root / TABLE_FILE, self._manifest["proteins"])
        self._readers = _Readers()

    @cached_property
    def ids(self) -> list[str]:
        return [_text(name) for name in self._table["id"].tolist()]

    @cached_property
    def index(self) -> Index:
        columns = [map(_text, self._table[column].tolist()) for column in SPLIT_COLUMNS]
        rows = zip(self.ids, *columns, strict=True)
        return {name: dict(zip(SPLIT_COLUMNS, row, strict=True)) for name, *row in rows if any(row)}

    def __getstate__(self) -> ProteinSetConfig:
        return self._config

    def __setstate__(self, config: ProteinSetConfig) -> None:
        # The files are not looked at again: one that is lost in mid-run concerns its own proteins alone.
        self._config = config
        self._load()

    @property
    def description(self) -> str:
        """Remarks for the console: those of the raw files, and what could not be read; '' if there are none."""
        remarks = [self._manifest["remarks"]] if self._manifest["remarks"] else []
        if self._failures:
            count, first = len(self._failures), next(iter(self._failures))
            what = f"1 protein could not be read ({first})" if count == 1 else f"{count} could not be read ({first}, …)"
            remarks.append(f"{what} when the set was prepared")
        return "; ".join(remarks)

    def facts(self, name: str) -> Facts:
        """Length, depth and the like, without opening a file. Raises DataError for one that could not be read."""
        row = self._row(name)
        return Facts(
            length=int(row["length"]),
            rows=int(row["rows"]),
            resolution=float(row["resolution"]),
            release_date=_text(row["release_date"]),
            repeat=float(row["repeat"]),
        )

    def read(self, name: str) -> Protein:
        """The protein with that id, its arrays read-only. Raises DataError if its record cannot be used."""
        row = self._row(name)
        path, number = self._path(row), int(row["record"])
        try:
            (record,) = self._readers.get(path).read([number])
            protein = decode_protein(record)
        except (RuntimeError, DataError) as error:
            self._readers.drop(path)  # so that a file which is put back is read again
            reason = str(error).rstrip(".")
            raise DataError(f"{path}: record {number} cannot be read ({reason}); copy the file again.") from None
        if protein.name != name:
            raise DataError(f"{path}: record {number} is {protein.name}; copy it and {TABLE_FILE} from one place.")
        return protein

    def files(self, name: str) -> list[Path]:
        """The file that the protein is read from; none of one that could not be read."""
        return [] if name in self._failures else [self._path(self._row(name))]

    def _row(self, name: str) -> np.void:
        if name in self._failures:
            raise DataError(self._failures[name])
        key = _bytes(name)
        place = bisect_left(range(len(self._table)), key, key=self._table["id"].__getitem__)
        assert place < len(self._table), name
        row = self._table[place]
        assert row["id"] == key, name
        return row

    def _path(self, row: np.void) -> Path:
        return self.root / self._manifest["files"][row["file"]]["name"]


class _Readers:
    """The files used last, open; safe for threads. A reader reads for several threads at a time."""

    def __init__(self):
        self._open: OrderedDict[Path, ArrayRecordReader] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path) -> ArrayRecordReader:
        with self._lock:
            if path not in self._open:
                self._open[path] = ArrayRecordReader(str(path), READER_OPTIONS, file_reader_buffer_size=READER_BUFFER)
            self._open.move_to_end(path)
            reader = self._open[path]
            # Not closed here: another thread may be reading. The file closes with the last reference.
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return reader

    def drop(self, path: Path) -> None:
        with self._lock:
            self._open.pop(path, None)


def read_manifest(root: Path) -> dict[str, Any]:
    """The content of prepared.json. Raises DataError unless everything that it speaks of has been prepared."""
    path = root / PREPARED_FILE
    try:
        manifest = json.loads(path.read_bytes())
        version, complete = manifest["format"], manifest["complete"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the file again.") from None
    if version != FORMAT:
        raise DataError(
            f"{path}: the files are of format {version}, and this evotrain reads format {FORMAT}: prepare them again."
        )
    if not complete:
        raise DataError(
            f"{root} is not completely prepared: give the same command=prepare again, it goes on where it was."
        )
    return manifest


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); copy the file again.") from None
    if size != expected:
        raise DataError(f"{path}: has {size} bytes instead of {expected}; copy the file again.")


def make_table(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The index of proteins, sorted by id; what a row does not say is 0 or empty."""
    columns: dict[str, np.ndarray] = {
        name: np.array([_bytes(row.get(name, "")) for row in rows], np.bytes_) for name in TEXTS
    }
    columns |= {name: np.array([row.get(name, 0) for row in rows], kind) for name, kind in NUMBERS.items()}
    table = np.empty(len(rows), [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    return table


def _read_table(path: Path, count: int) -> np.ndarray:
    """The index [count]. Raises DataError for a file that is something else."""
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the file again.") from None
    expected = NUMBERS.keys() | set(TEXTS)
    if table.shape != (count,) or set(table.dtype.names or ()) != expected:
        raise DataError(f"{path}: is not the index of the {count} proteins of {PREPARED_FILE}; copy both again.")
    return table


def _bytes(text: str) -> bytes:
    return text.encode()  # UTF-8, which sorts as Python sorts text


def _text(data: bytes) -> str:
    return data.decode()
