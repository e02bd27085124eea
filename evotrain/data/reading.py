"""Reads examples within `data.timeout`, so that no disk that hangs stops a run without a word."""

from collections.abc import Callable
from typing import Any

from evotrain.workers import Workers

LATE = "look at its files and at the disk that holds them, or write a larger data.timeout=…."
DEADLY = "if memory is short, lower data.workers or data.prefetch; else take this protein out of the data."


def readers(
    read: Callable[[Any], Any], minutes: float, *, named: Callable[[Any], str],
    count: int = 1, processes: bool = False, warn: Callable[[str], None] = print,
) -> Workers:  # fmt: skip
    """`count` threads or processes that do `read` for one key after another, each in at most so many minutes."""
    return Workers(
        read, count=count, processes=processes, named=named, minutes=minutes, late=LATE, deadly=DEADLY, warn=warn
    )
