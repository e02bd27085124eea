"""Processes that read proteins from raw files and turn them into records, in order and as many ahead as there is use.

A process that is killed, as the operating system does to one that takes too much memory, is replaced and its protein is
read again.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Self

from evotrain.data.sets.facts import Facts, facts_of
from evotrain.data.sets.raw import RawSet
from evotrain.data.sets.records import encode_protein
from evotrain.errors import DataError
from evotrain.workers import Workers

AHEAD = 4  # proteins that wait to be written, for each process
MINUTES = 30  # for a protein: no file that can be trained on takes nearly so long


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What became of one protein: its record, or the reason why there is none."""

    name: str
    sources: list[tuple[str, int, int]]  # name, bytes and time of change of each file, from before it was read
    record: bytes = b""
    facts: Facts | None = None
    templates: int = 0
    failure: str = ""


def read_protein(source: RawSet, name: str) -> Reading:
    """Reads one protein in this process."""
    sources = stat_sources(source, name)
    try:
        protein = source.read(name)
    except DataError as error:
        return Reading(name=name, sources=sources, failure=str(error))
    return Reading(
        name=name,
        sources=sources,
        record=encode_protein(protein),
        facts=facts_of(protein),
        templates=0 if protein.templates is None else len(protein.templates.aatype),
    )


def stat_sources(source: RawSet, name: str) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change of every file that a protein is read from, as far as they are there."""
    found = []
    for path in source.files(name):
        with suppress(OSError):  # to read it will say why
            status = path.stat()
            found.append((path.name, status.st_size, status.st_mtime_ns))
    return found


class Readers:
    """`count` processes, started when they are first needed and ended by `close`; a context manager.

    `warn` takes the message about a process that was killed and is replaced.
    """

    def __init__(self, source: RawSet, count: int, warn: Callable[[str], None]):
        self._count = count
        self._workers = Workers(
            partial(read_protein, source),
            count=count,
            processes=True,
            named=str,
            minutes=MINUTES,
            late="look at its files and at the disk that holds them, or take this protein out of the data. What is "
            "prepared so far is kept.",
            deadly="if memory is short, give the job more, or write a smaller prepare.workers=…; else take this "
            "protein out of the data. What is prepared so far is kept.",
            warn=warn,
        )

    def read(self, names: Iterable[str]) -> Iterator[Reading]:
        """The proteins in the order of `names`, each read somewhat before it is asked for.

        Raises:
          DataError: the processes that read a protein were killed, again and again; or it is not read after MINUTES.
        """
        return self._workers.run_all(names, ahead=AHEAD * self._count)

    def close(self) -> None:
        """Ends the processes, in the middle of a protein if need be."""
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
