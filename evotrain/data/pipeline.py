"""From a source to sharded batches on the devices, by position in the stream of examples.

The batch at example count e holds the examples e … e + batch_size − 1, whatever hosts, workers and restarts there are.
A process prepares the rows that its devices hold and no others.
"""

import os
import signal
from collections.abc import Iterator
from typing import Any, Self

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh

from evotrain.config import Config
from evotrain.data.sources import HOST_KEYS, Example, Source
from evotrain.parallel.mesh import batch_sharding

MANY_STEPS = 2**40  # no run ends for want of examples


class LocalExamples(grain.sources.RandomAccessDataSource):
    """The examples of this process's rows, step after step without end: position p is row p mod n of step p // n."""

    def __init__(self, source: Source, rows: list[int], batch_size: int, start: int):
        self._source, self._rows = source, rows
        self._batch_size, self._start = batch_size, start

    def __len__(self) -> int:
        return MANY_STEPS * len(self._rows)

    def __getitem__(self, position: int) -> Example:
        step, row = divmod(int(position), len(self._rows))
        return self._source.train(self._start + step * self._batch_size + self._rows[row])


class Batches:
    """The endless training batches from example `start` on, each a dict of global arrays, and its examples' notes.

    Examples are prepared ahead, in threads or in `data.workers` processes, and delivered in order.
    """

    def __init__(self, source: Source, config: Config, mesh: Mesh, *, start: int):
        self._batch_size = config.batch_size
        self._sharding = batch_sharding(mesh)
        self._rows = local_rows(self._sharding, config.batch_size)
        examples = LocalExamples(source, self._rows, config.batch_size, start)
        batches = grain.MapDataset.source(examples).batch(len(self._rows), batch_fn=stack)
        threads = grain.ReadOptions(
            num_threads=min(config.data.prefetch, os.cpu_count() or 1), prefetch_buffer_size=config.data.prefetch
        )
        iterable = batches.to_iter_dataset(threads)
        self._shared = config.data.workers > 0
        if self._shared:
            _mark_flags_parsed()
            buffer = -(-config.data.prefetch // config.data.workers)
            iterable = iterable.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=config.data.workers, per_worker_buffer_size=buffer),
                worker_init_fn=_leave_interrupts_to_the_loop,
            )
        self._iterator = iter(iterable)

    def __iter__(self) -> Iterator[tuple[dict[str, jax.Array], list[str]]]:
        for batch in self._iterator:
            # Out of the workers' shared memory, which is freed here and not whenever the devices let go of the batch.
            batch = {name: np.array(x) for name, x in batch.items()} if self._shared else batch
            notes = [str(note) for note in batch["note"] if str(note)]
            yield to_devices(batch, self._rows, self._batch_size, self._sharding), notes

    def close(self) -> None:
        """Stops the threads or processes."""
        self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
    """The global arrays of a batch of which this process has prepared `rows`; host-only features are left out."""
    position = {row: i for i, row in enumerate(rows)}

    def place(x: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            wanted = range(batch_size)[index[0]]
            return x[position[wanted[0]] : position[wanted[-1]] + 1]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), sharding, part)

    return {name: place(x) for name, x in batch.items() if name not in HOST_KEYS}


def batch_shapes(source: Source, batch_size: int, sharding: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch, from one example of the source."""
    example = source.train(0)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *np.shape(x)), np.asarray(x).dtype, sharding=sharding)
        for name, x in example.items()
        if name not in HOST_KEYS
    }


def _leave_interrupts_to_the_loop(_worker: int, _workers: int) -> None:
    """A Ctrl-C reaches every process of a terminal; the loop saves first and then ends the workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _mark_flags_parsed() -> None:
    """grain's worker processes read absl flags, which only programs started by absl parse."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
