"""Batches by position: the same for any number of threads and workers, from any start, on any split over hosts."""

import shutil
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from worker_sources import AwaitedSource, NumberSource, TroubledSource

from evotrain.compose import compose
from evotrain.config import Config
from evotrain.data.pipeline import Batches, LocalExamples, Timing, batch_shapes, local_rows, stack, to_devices
from evotrain.data.sources import HOST_KEYS, Example, open_source
from evotrain.errors import DataError
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


@pytest.fixture(params=["generated", "proteins"])
def data(request, config, repository) -> Config:
    """Generated families, and proteins from files."""
    if request.param == "generated":
        return config
    chosen = ["data=msa_dir", f"data.root={repository / 'data' / 'sample'}"]
    return compose([*chosen, "data.crop=8", "data.msa_clusters=4", f"batch_size={BATCH_SIZE}", "mesh.data=8"])


def with_workers(config: Config, workers: int) -> Config:
    return replace(config, data=replace(config.data, workers=workers))


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_workers(data, mesh, workers):
    assert_equal(batches(with_workers(data, workers), mesh, 0, 5), expected(data, 0, 5))


@pytest.mark.parametrize("prefetch", [1, 16])
def test_batches_do_not_depend_on_how_far_ahead_they_are_prepared(config, mesh, prefetch):
    changed = replace(config, data=replace(config.data, prefetch=prefetch))
    assert_equal(batches(changed, mesh, 0, 3), expected(config, 0, 3))


def test_batches_from_any_example_on(data, mesh):
    """Wherever a run was killed, and also where one with another batch size ended."""
    for start in np.random.default_rng(0).integers(1000, size=20):
        assert_equal(batches(data, mesh, int(start), 1), expected(data, int(start), 1))


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


def test_a_batch_is_padded_for_the_devices_that_share_its_examples(config):
    mesh = make_mesh(replace(config.mesh, data=2, context=3))
    (batch,), (unpadded,) = batches(config, mesh, 0, 1), expected(config, 0, 1)
    assert batch["msa_feat"].shape == (BATCH_SIZE, 1, 6, 9, 49)
    np.testing.assert_array_equal(batch["msa_feat"][:, :, :4, :8], unpadded["msa_feat"])
    assert not batch["msa_mask"][:, :, 4:].any()
    assert not batch["seq_mask"][:, 8:].any()


@pytest.mark.parametrize("context", [4, 3])
def test_shapes_are_known_before_the_first_batch(config, context):
    mesh = make_mesh(replace(config.mesh, context=context))
    shapes = batch_shapes(open_source(config), config, mesh)
    (batch,) = batches(config, mesh, 0, 1)
    assert {name: (x.shape, x.dtype) for name, x in shapes.items()} == {
        name: (x.shape, x.dtype) for name, x in batch.items()
    }


def test_the_example_that_tells_the_shapes_has_its_time_too(single, one_shard, tmp_path):
    changed = replace(single, data=replace(single.data, timeout=0.001))
    with pytest.raises(DataError, match=r"^example 0 \(number-0\) is not ready after 0\.001 minutes: .*data\.timeout"):
        batch_shapes(TroubledSource(tmp_path, {0: "hangs"}), changed, one_shard)


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

    hosts = [LocalExamples(Numbers().train, rows, batch_size=4, start=8) for rows in ([0, 1], [2, 3])]
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
    changed = with_workers(config, workers)
    before = set(threading.enumerate())
    with Batches(open_source(changed), changed, mesh, start=0) as stream:
        next(iter(stream))
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert set(threading.enumerate()) <= before


def test_notes_of_examples_reach_the_loop(config, mesh):
    source = open_source(config)
    plain = source.train

    def annotated(index: int) -> Example:
        note = "p7: its file is torn" if index == 2 else ""
        return plain(index) | {"note": np.asarray(note), "skipped": np.float32(bool(note))}

    source.train = annotated
    with Batches(source, config, mesh, start=0) as stream:
        (first, notes), (second, no_notes) = islice(stream, 2)
    assert (notes, no_notes) == (["a broken example was replaced: p7: its file is torn"], [])
    assert (first["skipped"].sum(), second["skipped"].sum()) == (1, 0)


# --- slow, broken and vanished examples ------------------------------------------------------------------------------


@pytest.fixture
def single(config) -> Config:
    """One example a batch, so that positions are easy to follow; examples are prepared four ahead."""
    return replace(config, batch_size=1, data=replace(config.data, prefetch=4))


@pytest.fixture(scope="module")
def one_shard() -> Mesh:
    return make_mesh(compose(["mesh.data=1", "mesh.context=8"]).mesh)


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr("evotrain.data.pipeline.available_cores", lambda: 2)


def test_a_slow_example_holds_nobody_up_before_its_turn(single, one_shard, two_threads):
    """While example 1 takes its time, the other worker prepares all of the window, in which nothing is replaced."""
    source = AwaitedSource({1}, count=9)
    with Batches(source, single, one_shard, start=0) as stream:
        delivered = (int(batch["index"][0]) for batch, _ in stream)
        assert next(delivered) == 0
        for index in (1, 2, 3, 4):
            assert source.begun[index].wait(60)
        assert not source.begun[5].is_set()  # the window has an end
        source.released.set()
        assert list(islice(delivered, 4)) == [1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("trouble", "sentence"), [("no data", "the file is torn"), ("hangs", "example 3 \\(number-3\\)")]
)
def test_an_example_that_fails_ends_the_run_at_its_turn(single, one_shard, tmp_path, workers, trouble, sentence):
    changed = replace(single, data=replace(single.data, workers=workers, timeout=0.02))
    with Batches(TroubledSource(tmp_path, {3: trouble}), changed, one_shard, start=0) as stream:
        delivered = iter(stream)
        assert [int(next(delivered)[0]["index"][0]) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(DataError, match=sentence):
            next(delivered)


def test_a_killed_worker_changes_no_batch(single, one_shard, tmp_path):
    changed = with_workers(single, 2)
    with Batches(TroubledSource(tmp_path, {2: "killed once"}), changed, one_shard, start=0) as stream:
        found = [(int(batch["index"][0]), warnings) for batch, warnings in islice(stream, 8)]
    assert [index for index, _ in found] == list(range(8))
    assert [text for _, warnings in found for text in warnings] == [
        "a worker process that prepared example 2 (number-2) was ended by SIGKILL; another one does."
    ]


def truncate(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])


def delete_file(folder: Path) -> None:
    next(folder.glob("structure*")).unlink()


def make_unreadable(folder: Path) -> None:
    """In a way that also stops the superuser: a link that leads to itself."""
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("harm", [truncate, delete_file, make_unreadable])
def test_a_protein_that_breaks_in_mid_run_is_replaced_and_named(repository, tmp_path, one_shard, workers, harm):
    root = shutil.copytree(repository / "data" / "sample", tmp_path / "proteins")
    sizes = ["data.crop=8", "data.msa_clusters=4", "batch_size=1", "mesh.context=8", "data.prefetch=1"]
    for seed in range(20):
        config = compose(["data=msa_dir", f"data.root={root}", f"data.workers={workers}", f"seed={seed}", *sizes])
        source = open_source(config)
        names = [source.name(index) for index in range(5)]
        # Nothing has read it when it breaks: it is not the first of its split, which is read at the start, and only
        # the examples 0 to 2 can have been asked for.
        if (broken := names[3]) != min(names):
            break
    with Batches(source, config, one_shard, start=0) as stream:
        delivered = iter(stream)
        next(delivered)
        harm(root / broken)
        following = [next(delivered) for _ in range(4)]
    assert [batch["skipped"][0] == 1 for batch, _ in following] == [name == broken for name in names[1:]]
    (warning,) = following[2][1]
    assert warning.startswith(f"a broken example was replaced: {broken}: {root / broken}")


# --- what is measured ------------------------------------------------------------------------------------------------


def test_timing_is_of_the_examples_since_the_last_reading(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("evotrain.data.pipeline.time.perf_counter", lambda: now[0])

    def prepare(seconds: int) -> Example:
        now[0] += seconds
        return NumberSource().train(seconds)

    timing = Timing(prepare, workers=2)
    assert timing.prepare(1)["index"] == 1
    timing.prepare(4)
    now[0] += 5
    assert timing.read() == {"time/example": 2.5, "time/slowest_example": 4, "time/worker_load": 0.25}
    now[0] += 5
    assert timing.read() == {"time/example": 0, "time/slowest_example": 0, "time/worker_load": 0}
