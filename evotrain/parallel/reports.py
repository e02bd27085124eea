"""What every process has to tell process 0, through JAX's key-value store: no collective, and nobody waits."""

import itertools
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress

import jax
from jax._src import distributed

PREFIX = "evotrain/reports"


class Reports:
    """Warnings and timings on their way to process 0. A run of one process keeps its own.

    What is sent before a collective operation is there for process 0 after it. A store that does not answer loses
    reports and nothing else: the step notices a lost process better.
    """

    def __init__(self) -> None:
        state = distributed.global_state
        self._process = state.process_id
        self._client = state.client if state.num_processes and state.num_processes > 1 else None
        self._numbers = itertools.count()
        self._sent: set[str] = set()

    def send(self, warnings: Iterable[str]) -> None:
        """Sends each new warning of this process."""
        if self._client is None or self._process == 0:
            return
        for text in warnings:
            if text not in self._sent:
                self._sent.add(text)
                with suppress(jax.errors.JaxRuntimeError):
                    key = f"{PREFIX}/warnings/{self._process}/{next(self._numbers)}"
                    self._client.key_value_set(key, text)

    def received(self) -> list[str]:
        """On process 0 what the others have sent since the last call; elsewhere nothing."""
        if self._client is None or self._process != 0:
            return []
        warnings = []
        with suppress(jax.errors.JaxRuntimeError):
            for key, text in self._client.key_value_dir_get(f"{PREFIX}/warnings/"):
                self._client.key_value_delete(key)
                warnings.append(text)
        return warnings

    def largest(self, values: Mapping[str, float]) -> dict[str, float]:
        """On process 0 the largest value on any process, as each last reported it; elsewhere this process's own."""
        largest = dict(values)
        if self._client is None:
            return largest
        with suppress(jax.errors.JaxRuntimeError):
            if self._process != 0:
                key = f"{PREFIX}/values/{self._process}"
                self._client.key_value_set(key, json.dumps(largest), allow_overwrite=True)
                return largest
            for _, others in self._client.key_value_dir_get(f"{PREFIX}/values/"):
                largest |= {name: max(largest[name], value) for name, value in json.loads(others).items()}
        return largest
