"""A source of examples that cost time and nothing else; worker processes import it from here."""

import time

import numpy as np

from evotrain.data.sources import Example


class SlowExamples:
    """Numbers that take `seconds` each, one in a hundred of them `factor` times as long."""

    held_out, description, fingerprints = 0, "sleeping", {}

    def __init__(self, seconds: float, factor: float):
        self._seconds, self._factor = seconds, factor

    def name(self, index: int) -> str:
        return f"number-{index}"

    def slow(self, index: int) -> bool:
        return np.random.default_rng((0, index)).random() < 0.01

    def train(self, index: int) -> Example:
        time.sleep(self._seconds * (self._factor if self.slow(index) else 1))
        noise = np.random.default_rng((1, index)).random(100, np.float32)
        return {"noise": noise, "name": np.asarray(self.name(index)), "note": np.asarray("")}
