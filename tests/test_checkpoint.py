"""Checkpoints come back to the bit, on the mesh that they were written from and on others."""

import socket
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest
import tensorstore
from checkpoint_states import KEEP_2, abstract, assert_same_bits, make_state, run_python, save_steps

from evotrain.checkpoint import Checkpoints
from evotrain.config import CheckpointConfig
from evotrain.errors import RunError


def test_restores_every_bit_and_the_classes_of_the_tree(tmp_path):
    save_steps(tmp_path, 1, 2)
    with Checkpoints(tmp_path, KEEP_2) as checkpoints:
        state, meta = checkpoints.restore(None, abstract(make_state()))
        assert meta == {"examples": 16}
        assert checkpoints.meta(1) == {"examples": 8}
    assert_same_bits(state, make_state(2))


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    """On CPU a host view of an array is its buffer: it must neither be overwritten nor keep a step from reusing it."""

    def fill(value):
        return {f"w{i}": jnp.full((512, 512), value, jnp.float32) for i in range(8)}

    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
    with Checkpoints(tmp_path, CheckpointConfig(keep=3)) as checkpoints:
        for step in (1, 2, 3):
            saved = state = fill(step)
            checkpoints.save(step, state, meta={}, metrics=None)
            for _ in range(10):
                state = overwrite(state)
            assert all(array.is_deleted() for array in saved.values())
            jax.block_until_ready(state)
        for step in (1, 2, 3):
            restored, _ = checkpoints.restore(step, abstract(fill(0)))
            assert_same_bits(restored, fill(step))


@pytest.mark.parametrize(("metric", "best"), [("loss", 20), ("masked_msa/accuracy", 40)])
def test_keeps_the_newest_and_the_best(tmp_path, metric, best):
    config = CheckpointConfig(keep=2, best=metric)
    values = {10: None, 20: 0.1, 30: float("nan"), 40: 0.9, 50: None, 60: 0.5}
    with Checkpoints(tmp_path, config) as checkpoints:
        assert checkpoints.latest_step() is None
        for step, value in values.items():
            metrics = None if value is None else {metric: value}
            checkpoints.save(step, {"w": jnp.ones(3)}, meta={}, metrics=metrics)
            assert checkpoints.latest_step() == step
        checkpoints.wait()
        assert sorted(int(path.name) for path in tmp_path.iterdir()) == checkpoints.steps() == [best, 50, 60]
    with Checkpoints(tmp_path, config) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best_step()) == ([best, 50, 60], best)


def test_without_a_finite_metric_no_checkpoint_is_the_best(tmp_path):
    with Checkpoints(tmp_path, KEEP_2) as checkpoints:
        checkpoints.save(1, make_state(), meta={}, metrics=None)
        checkpoints.save(2, make_state(), meta={}, metrics={"loss": float("nan"), "other": 1.0})
        assert checkpoints.best_step() is None
        with pytest.raises(RunError, match=r"has a finite loss, so none is the best: ask for last or .* 1, 2$"):
            checkpoints.restore_params("best", {"ema": abstract(make_state()["ema"])})


def test_reads_only_the_part_that_is_asked_for(tmp_path):
    state = {"ema": {"w": jnp.arange(10.0)}, "opt_state": jax.random.normal(jax.random.key(0), (1000, 1000))}
    with Checkpoints(tmp_path, KEEP_2) as checkpoints:
        checkpoints.save(1, state, meta={}, metrics={"loss": 1.0})
        checkpoints.save(2, {**state, "ema": {"w": jnp.zeros(10)}}, meta={}, metrics={"loss": 2.0})
        before = bytes_read()
        best = checkpoints.restore_params("best", {"ema": abstract(state["ema"])})
        assert bytes_read() - before < 100_000
        assert_same_bits(best, {"ema": state["ema"]})
        for which in ("last", 2):
            last = checkpoints.restore_params(which, {"ema": abstract(state["ema"])})
            assert_same_bits(last, {"ema": {"w": jnp.zeros(10)}})


def bytes_read() -> int:
    metrics = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return sum(value["value"] for metric in metrics for value in metric["values"])


def test_a_checkpoint_of_another_model_is_refused_by_name_and_shape(tmp_path):
    save_steps(tmp_path, 200)
    made = abstract(make_state())
    made["params"]["evoformer"]["w"] = jax.ShapeDtypeStruct((2, 32, 8), jnp.float32, sharding=made["step"].sharding)
    with Checkpoints(tmp_path, KEEP_2, read_only=True) as checkpoints, pytest.raises(RunError) as error:
        checkpoints.restore(None, made)
    assert str(error.value) == (
        f"{tmp_path}/200 holds another model: params/evoformer/w is (3, 32, 8), the configuration makes (2, 32, 8): "
        "use the configuration it was written with, or start a run under another name=…"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda made: made | {"step": struct(made, (), jnp.float32)}, "step is int32, the configuration makes float32"),
        (
            lambda made: made | {"new": struct(made, (2,), jnp.int32)},
            r"new is missing, the configuration makes int32 \(2,\)",
        ),
        (
            lambda made: {k: v for k, v in made.items() if k != "step"},
            r"step is int32 \(\), the configuration makes none",
        ),
        (lambda made: {"step": made["step"]}, r"ema/.*; ema/.*; ema/.*; and 10 more differ"),
        (
            lambda made: made | {"params": {"head": struct(made, (8, 5), jnp.bfloat16)}},
            r"head is \(8, 4\), .* \(8, 5\)",
        ),
        (
            lambda made: made | {"params": {"head": struct(made, (8, 3), jnp.bfloat16)}},
            r"head is \(8, 4\), .* \(8, 3\)",
        ),
    ],
)
def test_nothing_is_padded_cut_cast_or_left_out(tmp_path, change, sentence):
    save_steps(tmp_path, 1)
    with Checkpoints(tmp_path, KEEP_2, read_only=True) as checkpoints, pytest.raises(RunError, match=sentence):
        checkpoints.restore(1, change(abstract(make_state())))


def struct(made: dict, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=made["step"].sharding)


def test_a_missing_checkpoint_is_said_to_be_missing(tmp_path):
    nothing = r"there is no checkpoint in .*/none"
    with Checkpoints(tmp_path / "none", KEEP_2, read_only=True) as checkpoints, pytest.raises(RunError, match=nothing):
        checkpoints.restore(None, abstract(make_state()))
    assert not (tmp_path / "none").exists()
    save_steps(tmp_path, 1, 2)
    others = r"has no checkpoint of step 3: it has 1, 2$"
    with Checkpoints(tmp_path, KEEP_2) as checkpoints, pytest.raises(RunError, match=others):
        checkpoints.meta(3)


def test_a_step_is_written_once_and_never_over_another_run(tmp_path):
    save_steps(tmp_path, 1, 2)
    with Checkpoints(tmp_path, KEEP_2) as checkpoints:
        with pytest.raises(RunError, match="already holds step 2 of an earlier run, so step 2 is not written"):
            checkpoints.save(2, make_state(), meta={}, metrics=None)
        checkpoints.restore(None, abstract(make_state()))
        checkpoints.save(2, make_state(7), meta={}, metrics=None)
        assert_same_bits(checkpoints.restore(2, abstract(make_state()))[0], make_state(2))
        checkpoints.save(3, make_state(3), meta={}, metrics=None)
        assert checkpoints.steps() == [2, 3]


MESHES = """
import sys, jax, numpy as np
from pathlib import Path
if len(sys.argv) > 2:
    jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]), initialization_timeout=60)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from evotrain.checkpoint import Checkpoints
from checkpoint_states import KEEP_2, abstract, make_state

expected = make_state(5) | {"big": np.arange(1 << 19, dtype=np.float32).reshape(1024, 512)}

def on_mesh(sizes, axis):
    mesh = jax.make_mesh(sizes, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    def put(x):
        sharding = NamedSharding(mesh, P(None, axis) if x.ndim > 1 else P())
        return jax.make_array_from_callback(x.shape, sharding, lambda index: np.asarray(x)[index])
    return jax.tree.map(put, expected)

with Checkpoints(Path(sys.argv[1]), KEEP_2) as checkpoints:
    state = on_mesh((2, 2), "fsdp")
    for step in (1, 2, 3):
        assert not checkpoints.reached_preemption(step)
        checkpoints.save(step, state, meta={"step": step}, metrics={"loss": float(step)})
wanted = on_mesh((4, 1), "data")
with Checkpoints(Path(sys.argv[1]), KEEP_2) as checkpoints:
    assert checkpoints.steps() == [1, 2, 3] and checkpoints.best_step() == 1
    state, meta = checkpoints.restore(None, abstract(wanted))
    assert meta == {"step": 3}
    for got, want, whole in zip(*map(jax.tree.leaves, (state, wanted, expected)), strict=True):
        assert got.sharding == want.sharding and got.dtype == want.dtype
        for shard in got.addressable_shards:
            assert np.asarray(shard.data).tobytes() == np.asarray(whole)[shard.index].tobytes()
print("restored on", jax.process_count(), "processes,", jax.device_count(), "devices")
"""


def test_restores_onto_another_mesh_and_is_silent(tmp_path):
    run = run_python(MESHES, tmp_path, devices=4)
    assert (run.stderr, run.stdout) == ("", "restored on 1 processes, 4 devices\n")


def test_two_processes_write_and_read_one_checkpoint(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda process: run_python(MESHES, tmp_path, address, process, devices=2), range(2)))
    for run in runs:
        assert run.stdout.splitlines()[-1:] == ["restored on 2 processes, 4 devices"], run.stderr
