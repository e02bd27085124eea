"""Arrays that two processes hand to each other through memory that both map."""

import mmap
import os
import sys
import tempfile
from typing import NamedTuple

import numpy as np

ALIGNMENT = 64  # bytes


class Placed(NamedTuple):
    """Where an array lies in a block."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


class SharedBlock:
    """Memory for the arrays of one answer, in a file without a name; it grows as needed."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    def write(self, arrays: dict[str, np.ndarray]) -> list[Placed]:
        """Copies the arrays in, and returns what `read` needs to find them."""
        arrays = {name: np.asarray(x) for name, x in arrays.items()}
        placed, end = [], 0
        for name, x in arrays.items():
            placed.append(Placed(name, x.shape, x.dtype, end))
            end += -(-x.nbytes // ALIGNMENT) * ALIGNMENT
        if end > os.fstat(self.descriptor).st_size:
            os.ftruncate(self.descriptor, end)
        for place in placed:
            self._view(place)[...] = arrays[place.name]
        return placed

    def read(self, placed: list[Placed]) -> dict[str, np.ndarray]:
        """Copies of the arrays that the other process wrote."""
        return {place.name: self._view(place).copy() for place in placed}

    def _view(self, place: Placed) -> np.ndarray:
        size = os.fstat(self.descriptor).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.descriptor, size)
        return np.ndarray(place.shape, place.dtype, self._map, place.offset)

    def __del__(self) -> None:
        os.close(self.descriptor)


def anonymous_file() -> int:
    """The descriptor of an empty file in memory that vanishes with the last process that has it open."""
    if sys.platform == "linux":
        return os.memfd_create("evotrain-arrays")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
