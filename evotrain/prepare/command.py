"""`command=prepare`: proteins from raw files become ArrayRecord files that training reads quickly.

The proteins, sorted by id, are cut into files of `prepare.proteins_per_file`, so that the work has parts that are the
same for any number of jobs and processes, and the files the same bytes. Job i of n makes files i, i + n, i + 2n, …. A
file that is there is whole, and beside it, until all are done, lies a JSON that says what is in it; a job that is
started again makes the files that are missing. The job that finds all of them writes the index, and last of all says in
prepared.json that the directory is complete.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from evotrain.checks_data import shard
from evotrain.config import Config
from evotrain.data.sets.index import INDEX_FILE, Index
from evotrain.data.sets.prepared import FORMAT, TABLE_FILE, make_table
from evotrain.data.sets.protein_set import PREPARED_FILE
from evotrain.data.sets.raw import RawSet
from evotrain.data_config import PREPARED_KEYS, ProteinSetConfig
from evotrain.errors import ConfigError, DataError
from evotrain.explain import spell
from evotrain.prepare.files import as_json, whole, writing
from evotrain.prepare.readers import Readers, Reading, stat_sources
from evotrain.prepare.report import Progress, draw, report, show
from evotrain.workers import available_cores

# A record to a chunk, so that one is read without its neighbours. Level 19 would make files 12 % smaller in seven times
# the time, brotli:6 files 6 % smaller that are read at a third of the speed.
WRITER_OPTIONS = "group_size:1,zstd:9"
REPORT_FILE, FIGURE_FILE = "report.json", "lengths.png"


def prepare(config: Config) -> None:
    """Does this job's part of the work, and what is left to do at the end if no other job has more to do.

    Raises:
      ConfigError: `prepare.out` cannot be used, or other settings were used there before.
      DataError: the raw files cannot be used, or have changed; or one protein takes too long or too much memory.
      RunError: the disk is full.
    """
    part, parts = shard(config)
    out, root = Path(config.prepare.out), Path(config.data.root)
    _check_places(out, root)
    source = RawSet(config.data)
    plan = _plan(source, config.data, config.prepare.proteins_per_file)
    files = _Files(out, source.ids, plan)
    if _begin(out, plan):
        files.forget_notes()
        print(f"{out} is prepared already; to prepare it anew, delete it first.")
        return
    todo = [number for number in range(part, files.count, parts) if not files.done(source, number)]
    workers = min(config.prepare.workers or available_cores(), max(1, sum(len(files.names(number)) for number in todo)))
    progress = Progress(root, out, files=len(todo), proteins=sum(len(files.names(number)) for number in todo))
    with progress, Readers(source, workers, progress.warn) as readers:
        readings = readers.read(name for number in todo for name in files.names(number))
        for number in todo:
            files.write(number, progress.counted(islice(readings, len(files.names(number)))))
            progress.finished(files.path(number))
    if missing := [number for number in range(files.count) if not files.note(number).exists()]:
        if not _complete(out):
            print(f"{out}: {files.count - len(missing)} of {files.count} files are there, other jobs make the rest.")
        return
    _finish(out, source, files, plan)


class _Files:
    """The ArrayRecord files of a directory, by number, and the notes beside them."""

    def __init__(self, out: Path, ids: list[str], plan: dict[str, Any]):
        self._out, self._ids = out, ids
        self._each = plan["settings"]["proteins_per_file"]
        self.count = -(-len(ids) // self._each)

    def names(self, number: int) -> list[str]:
        """The proteins of a file."""
        return self._ids[number * self._each : (number + 1) * self._each]

    def path(self, number: int) -> Path:
        return self._out / f"proteins-{number:05d}-of-{self.count:05d}.array_record"

    def note(self, number: int) -> Path:
        return self.path(number).with_suffix(".json")

    def done(self, source: RawSet, number: int) -> bool:
        """Whether a file is there. Raises DataError if it was made from other raw files than those of today."""
        try:
            note = json.loads(self.note(number).read_bytes())
            if self.path(number).stat().st_size != note["bytes"]:
                return False
        except FileNotFoundError:
            return False
        if note["sources"] != _digest([(name, stat_sources(source, name)) for name in self.names(number)]):
            raise DataError(
                f"{source.root}: files of {note['proteins'][0]['id']} to {note['proteins'][-1]['id']} have changed "
                f"since {self.path(number).name} was made of them: delete {self.note(number)} and start again."
            )
        return True

    def write(self, number: int, readings: Iterator[Reading]) -> None:
        """Makes a file and its note."""
        notes, sources = [], []
        with whole(self.path(number)) as temporary:
            writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
            try:
                for reading in readings:
                    if reading.record:
                        writer.write(reading.record)
                    notes.append(_note(reading))
                    sources.append((reading.name, reading.sources))
            finally:
                writer.close()
        size = self.path(number).stat().st_size
        with whole(self.note(number)) as temporary:
            temporary.write_bytes(as_json({"sources": _digest(sources), "bytes": size, "proteins": notes}))

    def forget_notes(self) -> None:
        """Removes what a complete directory does not need: the notes, and what killed jobs left."""
        for path in (*map(self.note, range(self.count)), *self._out.glob(".*.tmp")):
            path.unlink(missing_ok=True)


def _note(reading: Reading) -> dict[str, Any]:
    """What is kept of one protein beside its record."""
    known = {"id": reading.name, "source_bytes": sum(size for _, size, _ in reading.sources)}
    if not reading.record:
        return known | {"failure": reading.failure}
    digest = hashlib.sha256(reading.record).hexdigest()
    return known | {"facts": asdict(reading.facts), "templates": reading.templates, "digest": digest}


def _check_places(out: Path, root: Path) -> None:
    """The written directory is not the one that is read, nor in it, nor one of something else."""
    if (root / PREPARED_FILE).exists():
        raise ConfigError(f"data.root={root} is prepared already: train on it, or name the raw files.")
    if out.resolve().is_relative_to(root.resolve()):
        where = "is" if out.resolve() == root.resolve() else "lies in"
        raise ConfigError(f"prepare.out={out} {where} data.root={root}, which is only read: write another directory.")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        held = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
    if held and PREPARED_FILE not in held:
        raise ConfigError(f"prepare.out={out} holds something else ({held[0]}): write a new or an empty directory.")


def _plan(source: RawSet, config: ProteinSetConfig, proteins_per_file: int) -> dict[str, Any]:
    """What prepared.json says before anything is done, and what every job must agree on."""
    rows = [(name, *source.index.get(name, {}).values()) for name in source.ids]
    chosen = {name: getattr(config, name) for name in ("root", *PREPARED_KEYS)}
    settings = {name: value and str(Path(value)) for name, value in chosen.items()}  # without a slash at the end
    return {
        "format": FORMAT,
        "complete": False,
        "proteins": len(source.ids),
        "settings": settings | {"proteins_per_file": proteins_per_file},
        "listing": _digest(rows),
    }


def _begin(out: Path, plan: dict[str, Any]) -> bool:
    """Writes the plan, or compares it with that of an earlier start; returns whether the directory is complete."""
    path = out / PREPARED_FILE
    if not path.exists():
        with whole(path) as temporary:
            temporary.write_bytes(as_json(plan))
        return False
    begun = json.loads(path.read_bytes())
    if begun["format"] != FORMAT:
        raise ConfigError(f"{out} was begun by another version of evotrain: delete it, or write another prepare.out.")
    for name, value in plan["settings"].items():
        if (before := begun["settings"][name]) != value:
            key = f"prepare.{name}" if name == "proteins_per_file" else f"data.{name}"
            raise ConfigError(
                f"{out} was begun with {key}={spell(before)}, not {spell(value)}: write the same again, or another "
                "prepare.out."
            )
    if begun["listing"] != plan["listing"]:
        raise DataError(
            f"{plan['settings']['root']}: its proteins or its {INDEX_FILE} have changed since {out} was begun: write "
            "another prepare.out, or delete this one to start over."
        )
    return begun["complete"]


def _complete(out: Path) -> bool:
    return json.loads((out / PREPARED_FILE).read_bytes())["complete"]


def _finish(out: Path, source: RawSet, files: _Files, plan: dict[str, Any]) -> None:
    """Makes the directory complete."""
    try:
        notes = [json.loads(files.note(number).read_bytes())["proteins"] for number in range(files.count)]
    except FileNotFoundError:
        return  # another job is at the same, and further on
    every = [note for file in notes for note in file]
    fingerprint = hashlib.sha256()
    for note in every:
        fingerprint.update(as_json([note["id"], note.get("digest")]))
    contents = [{"name": path.name, "bytes": path.stat().st_size} for path in map(files.path, range(files.count))]
    summary = report(every, source.unusable, sum(file["bytes"] for file in contents))
    with whole(out / TABLE_FILE) as temporary, temporary.open("wb") as file:
        np.save(file, make_table(list(_rows(notes, source.index))))
    with whole(out / FIGURE_FILE) as temporary:
        draw(temporary, [note["facts"] for note in every if "facts" in note], out.name)
    with whole(out / REPORT_FILE) as temporary:
        temporary.write_bytes(as_json(summary))
    with whole(out / PREPARED_FILE) as temporary:
        remarks = {"unreadable": summary["skipped"], "unusable": source.unusable, "remarks": source.description}
        done = {"complete": True, "files": contents, "fingerprint": fingerprint.hexdigest()}
        temporary.write_bytes(as_json(plan | done | remarks))
    files.forget_notes()
    show(out, summary, fingerprint.hexdigest())


def _rows(files: Sequence[Sequence[dict[str, Any]]], index: Index) -> Iterator[dict[str, Any]]:
    """The rows of the index, from the notes of every file."""
    for number, notes in enumerate(files):
        records = count()
        for note in notes:
            place = {"file": number, "record": next(records)} | note["facts"] if "facts" in note else {"file": -1}
            yield {"id": note["id"]} | index.get(note["id"], {}) | place


def _digest(content: Any) -> str:
    return hashlib.sha256(as_json(content)).hexdigest()
