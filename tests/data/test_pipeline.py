"""Batches by position: the same for any number of threads and workers, from any start, on any split over hosts."""

import multiprocessing
import threading
from dataclasses import replace
from itertools import islice

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from evotrain.compose import compose
from evotrain.config import Config
from evotrain.data.pipeline import Batches, LocalExamples, batch_shapes, local_rows, stack, to_devices
from evotrain.data.sources import HOST_KEYS, Example, open_source
from evotrain.parallel.mesh import batch_sharding, make_mesh

BATCH_SIZE = 4


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(["data.crop=8", "data.msa_clusters=4", f"batch_size={BATCH_SIZE}", "mesh.data=2", "mesh.context=4"])


@pytest.fixture(scope="module")
def mesh(config) -> Mesh:
    return make_mesh(config.mesh)


def batches(config: Config, mesh: Mesh, start: int, steps: int) -> list[dict[str, np.ndarray]]:
    with Batches(open_source(config), config, mesh, start=start) as stream:
        return [jax.device_get(batch) for batch, _ in islice(stream, steps)]


def expected(config: Config, start: int, steps: int) -> list[dict[str, np.ndarray]]:
    """The batches as they are defined: examples one after another."""
    source = open_source(config)
    positions = range(start, start + steps * BATCH_SIZE, BATCH_SIZE)
    wholes = [stack([source.train(e + row) for row in range(BATCH_SIZE)]) for e in positions]
    return [{name: x for name, x in whole.items() if name not in HOST_KEYS} for whole in wholes]


def assert_equal(found: list[dict[str, np.ndarray]], wanted: list[dict[str, np.ndarray]]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(config, mesh, workers):
    changed = replace(config, data=replace(config.data, workers=workers))
    assert_equal(batches(changed, mesh, 0, 5), expected(config, 0, 5))


@pytest.mark.parametrize("prefetch", [1, 16])
def test_batches_do_not_depend_on_how_far_ahead_they_are_prepared(config, mesh, prefetch):
    changed = replace(config, data=replace(config.data, prefetch=prefetch))
    assert_equal(batches(changed, mesh, 0, 3), expected(config, 0, 3))


@pytest.mark.parametrize("start", [1, 4, 10])
def test_batches_from_any_example_on(config, mesh, start):
    """A run that is continued with another batch size starts where no batch started before."""
    assert_equal(batches(config, mesh, start, 2), expected(config, start, 2))


def test_a_batch_is_spread_over_the_mesh(config, mesh):
    """Two rows on each half of the devices, the same on all context shards."""
    with Batches(open_source(config), config, mesh, start=0) as stream:
        batch, notes = next(iter(stream))
    assert notes == []
    assert not set(HOST_KEYS) & batch.keys()
    for x in batch.values():
        rows = {shard.device.id: shard.index[0] for shard in x.addressable_shards}
        assert [rows[i] for i in range(8)] == [slice(0, 2)] * 4 + [slice(2, 4)] * 4
        for shard in x.addressable_shards:
            np.testing.assert_array_equal(shard.data, x[shard.index])


def test_shapes_are_known_before_the_first_batch(config, mesh):
    shapes = batch_shapes(open_source(config), BATCH_SIZE, batch_sharding(mesh))
    (batch,) = batches(config, mesh, 0, 1)
    assert {name: (x.shape, x.dtype) for name, x in shapes.items()} == {
        name: (x.shape, x.dtype) for name, x in batch.items()
    }


class Half:
    """The batch sharding as one of two hosts sees it: it addresses a half of the devices."""

    def __init__(self, sharding: jax.sharding.NamedSharding, devices: slice):
        self._indices = sharding.devices_indices_map
        self._devices = list(sharding.mesh.devices.flat)[devices]

    def addressable_devices_indices_map(self, shape: tuple[int, ...]) -> dict:
        return {device: self._indices(shape)[device] for device in self._devices}


@pytest.mark.parametrize(
    ("axes", "first", "second"),
    [
        (("mesh.data=8",), [0, 1, 2, 3], [4, 5, 6, 7]),
        (("mesh.data=2", "mesh.fsdp=4"), [0, 1, 2, 3], [4, 5, 6, 7]),
        (("mesh.data=2", "mesh.context=4"), [0, 1, 2, 3], [4, 5, 6, 7]),
        # Both hosts work on the same examples, and load the same.
        (("mesh.data=1", "mesh.context=8"), list(range(8)), list(range(8))),
    ],
)
def test_a_host_prepares_the_rows_of_its_devices(axes, first, second):
    sharding = batch_sharding(make_mesh(compose(["batch_size=8", *axes]).mesh))
    assert local_rows(sharding, 8) == list(range(8))
    assert local_rows(Half(sharding, slice(0, 4)), 8) == first
    assert local_rows(Half(sharding, slice(4, 8)), 8) == second


def test_hosts_together_prepare_each_example_once(config):
    class Numbers:
        def train(self, index: int) -> Example:
            return {"index": np.asarray(index)}

    hosts = [LocalExamples(Numbers(), rows, batch_size=4, start=8) for rows in ([0, 1], [2, 3])]
    found = [[int(host[p]["index"]) for p in range(6)] for host in hosts]
    assert found == [[8, 9, 12, 13, 16, 17], [10, 11, 14, 15, 18, 19]]


def test_rows_of_one_host_are_found_in_what_it_prepared(mesh):
    """Rows 2 and 3 alone, as the second of two hosts has them, come to their places."""
    sharding = batch_sharding(mesh)
    whole = {"x": np.arange(12.0).reshape(4, 3), "name": np.array(["a", "b", "c", "d"])}
    placed = to_devices(whole, [0, 1, 2, 3], 4, sharding)
    assert placed.keys() == {"x"}
    np.testing.assert_array_equal(placed["x"], whole["x"])


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_early_leaves_nothing_behind(config, mesh, workers):
    changed = replace(config, data=replace(config.data, workers=workers))
    before = set(threading.enumerate())
    with Batches(open_source(changed), changed, mesh, start=0) as stream:
        next(iter(stream))
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert not [thread for thread in set(threading.enumerate()) - before if thread.is_alive() and not thread.daemon]
    for process in multiprocessing.active_children():
        process.join(30)
    assert multiprocessing.active_children() == []


def test_notes_of_examples_reach_the_loop(config, mesh):
    source = open_source(config)
    plain = source.train

    def annotated(index: int) -> Example:
        note = "p7: its file is torn" if index == 2 else ""
        return plain(index) | {"note": np.asarray(note), "substituted": np.float32(bool(note))}

    source.train = annotated
    with Batches(source, config, mesh, start=0) as stream:
        (first, notes), (second, no_notes) = islice(stream, 2)
    assert (notes, no_notes) == (["p7: its file is torn"], [])
    assert (first["substituted"].sum(), second["substituted"].sum()) == (1, 0)
