"""Sources that test what prepares examples: worker processes import them from here, and quickly."""

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np

from evotrain.data.sources import Example
from evotrain.errors import DataError


class NumberSource:
    """Example `index` holds it, in arrays of several kinds."""

    held_out, description, fingerprints = 0, "numbers", {}

    def name(self, index: int) -> str:
        return f"number-{index}"

    def train(self, index: int) -> Example:
        return {
            "index": np.asarray(index),
            "flag": np.float32(index % 2),
            "grid": np.full((index % 5, 3), index, np.int8),
            "mask": np.arange(4) < index,
            "name": np.asarray(self.name(index)),
            "note": np.asarray(""),
        }


class TroubledSource(NumberSource):
    """Numbers some of which do something else before they are ready, as `troubles` says by index."""

    def __init__(self, directory: Path, troubles: dict[int, str]):
        self._directory, self._troubles = directory, troubles

    def train(self, index: int) -> Example:
        match self._troubles.get(index):
            case "killed once":
                if not (self._directory / str(index)).exists():
                    (self._directory / str(index)).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exits":
                os._exit(3)
            case "hangs":
                print("hangs", flush=True)
                threading.Event().wait()
            case "no data":
                raise DataError(f"{self.name(index)}: the file is torn.")
            case "bug":
                raise ZeroDivisionError("a bug")
        return super().train(index)


class SurroundingsSource(NumberSource):
    """Tells where examples are prepared."""

    def train(self, index: int) -> Example:
        return {
            "process": np.asarray(os.getpid()),
            "group": np.asarray(os.getpgrp()),
            "jax": np.asarray("jax" in sys.modules),
        }


class LargeSource(NumberSource):
    """Holds numbers and tells their sum."""

    def __init__(self, numbers: np.ndarray):
        self._numbers = numbers

    def train(self, index: int) -> Example:
        return {"sum": self._numbers.sum()}


class AwaitedSource(NumberSource):
    """Numbers that wait until they are let go; for threads."""

    def __init__(self, held: set[int], count: int):
        self.begun = [threading.Event() for _ in range(count)]
        self.released = threading.Event()
        self._held = held

    def train(self, index: int) -> Example:
        self.begun[index].set()
        if index in self._held:
            self.released.wait()
        return super().train(index)
