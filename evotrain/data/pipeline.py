"""From a source to sharded batches on the devices, by position in the stream of examples.

The batch at example count e holds the examples e … e + batch_size − 1, whatever hosts, workers and restarts there are.
A process prepares the rows that its devices hold and no others.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from evotrain.config import Config
from evotrain.data.features.padding import pad
from evotrain.data.reading import readers
from evotrain.data.sources import HOST_KEYS, Example, Source
from evotrain.parallel.mesh import batch_sharding, context_shards
from evotrain.workers import available_cores

MANY_STEPS = 2**40  # no run ends for want of examples


class LocalExamples(grain.sources.RandomAccessDataSource):
    """The examples of this process's rows, step after step without end: position p is row p mod n of step p // n."""

    def __init__(self, prepare: Callable[[int], Example], rows: list[int], batch_size: int, start: int):
        self._prepare, self._rows = prepare, rows
        self._batch_size, self._start = batch_size, start

    def __len__(self) -> int:
        return MANY_STEPS * len(self._rows)

    def __getitem__(self, position: int) -> Example:
        step, row = divmod(int(position), len(self._rows))
        return self._prepare(self._start + step * self._batch_size + self._rows[row])


class Batches:
    """The endless training batches from example `start` on, each a dict of global arrays, and warnings about it.

    From the moment it is entered, examples are prepared ahead, in threads or in `data.workers` processes: always the
    next free worker takes the next example, up to `data.prefetch` batches before its turn. They are delivered in order.
    So a slow example holds nobody up until its turn comes, and no batch depends on timing.
    """

    def __init__(self, source: Source, config: Config, mesh: Mesh, *, start: int):
        self._batch_size = config.batch_size
        self._sharding = batch_sharding(mesh)
        self._rows = local_rows(self._sharding, config.batch_size)
        window = config.data.prefetch * len(self._rows)
        self._count = config.data.workers or min(window, available_cores())
        self._warnings: list[str] = []
        self._workers = readers(
            source.train,
            config.data.timeout,
            named=lambda index: f"example {index} ({source.name(index)})",
            count=self._count,
            processes=config.data.workers > 0,
            warn=self._warnings.append,
        )
        self._timing = Timing(self._workers.run, self._count)
        examples = LocalExamples(self._timing.prepare, self._rows, config.batch_size, start)
        ahead = grain.ReadOptions(num_threads=self._count, prefetch_buffer_size=window)
        dataset = grain.MapDataset.source(examples).to_iter_dataset(ahead)
        self._iterator = iter(dataset.batch(len(self._rows), batch_fn=stack))

    def __iter__(self) -> Iterator[tuple[dict[str, jax.Array], list[str]]]:
        for batch in self._iterator:
            notes = [f"a broken example was replaced: {note}" for note in batch["note"] if note]
            warnings = [self._warnings.pop(0) for _ in range(len(self._warnings))]  # workers may append meanwhile
            yield to_devices(batch, self._rows, self._batch_size, self._sharding), notes + warnings

    def timing(self) -> dict[str, float]:
        """Metrics of the examples that were prepared since the last call."""
        return self._timing.read()

    def close(self) -> None:
        """Stops the threads or processes."""
        self._iterator.close()
        self._workers.close()

    def __enter__(self) -> Self:
        self._iterator.start_prefetch()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Timing:
    """How long the examples take to prepare, seen from the threads that wait for them."""

    def __init__(self, prepare: Callable[[int], Example], workers: int):
        self._prepare, self._workers = prepare, workers
        self._lock = threading.Lock()
        self._seconds: list[float] = []
        self._begun = time.perf_counter()

    def prepare(self, index: int) -> Example:
        begun = time.perf_counter()
        example = self._prepare(index)
        with self._lock:
            self._seconds.append(time.perf_counter() - begun)
        return example

    def read(self) -> dict[str, float]:
        """Of the examples since the last call: seconds of the mean one and of the slowest, and the workers' load,
        which is 1 when they are always busy and more of them are needed. Zeros if there were none."""
        now = time.perf_counter()
        with self._lock:
            seconds, self._seconds = self._seconds, []
        elapsed, self._begun = now - self._begun, now
        return {
            "time/example": sum(seconds) / max(len(seconds), 1),
            "time/slowest_example": max(seconds, default=0.0),
            "time/worker_load": min(sum(seconds) / (elapsed * self._workers), 1.0),
        }


def stack(examples: list[Example]) -> dict[str, np.ndarray]:
    """A batch of examples, feature by feature."""
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def local_rows(sharding: jax.sharding.NamedSharding, batch_size: int) -> list[int]:
    """The rows of a batch that this process's devices hold, in ascending order."""
    held = sharding.addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (rows,) in held for row in range(batch_size)[rows]})


def to_devices(
    batch: dict[str, np.ndarray], rows: list[int], batch_size: int, sharding: jax.sharding.NamedSharding
) -> dict[str, jax.Array]:
    """The global arrays of a batch of which this process has prepared `rows`, padded to sizes that devices can share.

    Host-only features are left out.
    """
    position = {row: i for i, row in enumerate(rows)}

    def place(x: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            wanted = range(batch_size)[index[0]]
            return x[position[wanted[0]] : position[wanted[-1]] + 1]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), sharding, part)

    padded = pad(batch, context_shards(sharding.mesh))
    return {name: place(x) for name, x in padded.items() if name not in HOST_KEYS}


def batch_shapes(source: Source, config: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch, from one example of the source."""
    with readers(source.train, config.data.timeout, named=lambda index: f"example 0 ({source.name(index)})") as workers:
        return shapes_of_batch(workers.run(0), config, mesh)


def shapes_of_batch(example: Example, config: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch of examples like this one."""
    example, sharding = pad(example, context_shards(mesh)), batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((config.batch_size, *np.shape(x)), np.asarray(x).dtype, sharding=sharding)
        for name, x in example.items()
        if name not in HOST_KEYS
    }
