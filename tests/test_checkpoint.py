"""Checkpoints come back to the bit, whatever happens to the process, the disk or the mesh between save and restore."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore

from evotrain.checkpoint import Checkpoints
from evotrain.config import CheckpointConfig
from evotrain.errors import RunError

KEEP_2 = CheckpointConfig(keep=2)


def make_state(seed: int = 0) -> dict:
    """A small training state with every dtype that a run has, and the named tuples of optax."""
    rng = np.random.default_rng(seed)
    params = {
        "evoformer": {"w": jnp.asarray(rng.standard_normal((3, 32, 8)), jnp.float32), "b": jnp.ones((), jnp.float32)},
        "head": jnp.asarray(rng.standard_normal((8, 4)), jnp.bfloat16),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return {"step": jnp.int32(seed), "params": params, "opt_state": optimizer.init(params), "ema": params}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_same_bits(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def save_steps(directory: Path, *steps: int) -> None:
    with Checkpoints(directory, KEEP_2) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), meta={"examples": 8 * step}, metrics={"loss": 1.0 / step})


def run_python(script: str, *arguments: object, devices: int = 1, **options) -> subprocess.CompletedProcess:
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False, **options)


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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("_CHECKPOINT_METADATA", None),
        ("_CHECKPOINT_METADATA", b"{"),
        ("state/_METADATA", None),
        ("state/_METADATA", b"{"),
        ("state/manifest.ocdbt", None),
        ("state/manifest.ocdbt", b""),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, caplog, name, content):
    save_steps(tmp_path, 1, 2)
    path = tmp_path / "2" / name
    path.unlink() if content is None else path.write_bytes(content)
    with Checkpoints(tmp_path, KEEP_2, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1]
    assert (tmp_path / "2").exists()
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path, KEEP_2) as checkpoints:
        assert f"checkpoint {tmp_path}/2 is damaged ({name} is " in caplog.text
        state, _ = checkpoints.restore(None, abstract(make_state()))
        assert_same_bits(state, make_state(1))
        checkpoints.save(2, make_state(2), meta={}, metrics=None)
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "2.damaged"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of reads that were under way
def test_damaged_arrays_are_reported_in_one_sentence(tmp_path):
    save_steps(tmp_path, 1, 2)
    (tmp_path / "2/state/manifest.ocdbt").write_bytes(b"scrambled")
    with Checkpoints(tmp_path, KEEP_2) as checkpoints:
        with pytest.raises(RunError, match=r"/2 is damaged \(.*\): delete it to go on from another one \(1\)$"):
            checkpoints.restore(None, abstract(make_state()))
        assert_same_bits(checkpoints.restore(1, abstract(make_state()))[0], make_state(1))


KILLED = """
import sys, jax, jax.numpy as jnp
from pathlib import Path
from evotrain.checkpoint import Checkpoints
from evotrain.config import CheckpointConfig
checkpoints = Checkpoints(Path(sys.argv[1]), CheckpointConfig(keep=2))
for step in range(1, 1000):
    state = {"w": jax.random.normal(jax.random.key(step), (2500, 2500)), "v": jnp.full(3, step)}
    checkpoints.save(step, jax.block_until_ready(state), meta={"step": step}, metrics={"loss": 1.0})
    print(step, flush=True)
"""


@pytest.mark.parametrize(("last_save", "delay"), [(1, 0.0), (3, 0.05)])
def test_killed_while_saving_leaves_a_complete_checkpoint(tmp_path, last_save, delay):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True, env=env) as run:
        while int(run.stdout.readline()) < last_save:
            pass
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(delay)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    with Checkpoints(tmp_path, KEEP_2) as checkpoints:
        newest = checkpoints.latest_step()
        assert (newest or 0) >= last_save - 1  # `save` waits for the one before, so at most one is lost
        shapes = abstract({"w": jnp.zeros((2500, 2500)), "v": jnp.zeros(3, jnp.int32)})
        for step in checkpoints.steps():
            expected = {"w": jax.random.normal(jax.random.key(step), (2500, 2500)), "v": jnp.full(3, step)}
            assert_same_bits(checkpoints.restore(step, shapes)[0], expected)
        checkpoints.save((newest or 0) + 100, {"w": jnp.zeros(3)}, meta={}, metrics=None)
    assert not [path.name for path in tmp_path.iterdir() if not path.name.isdigit()]


DISK_FULL = """
import resource, sys, jax
from pathlib import Path
from evotrain.checkpoint import Checkpoints
from evotrain.config import CheckpointConfig
from evotrain.errors import RunError
state = {"w": jax.random.normal(jax.random.key(0), (1000, 1000))}
try:
    with Checkpoints(Path(sys.argv[1]), CheckpointConfig(keep=1)) as checkpoints:
        checkpoints.save(1, state, meta={}, metrics=None)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        checkpoints.save(2, state, meta={}, metrics=None)
        if sys.argv[2] == "wait":
            checkpoints.wait()
        elif sys.argv[2] == "save":
            checkpoints.save(3, state, meta={}, metrics=None)
        elif sys.argv[2] == "raise":
            raise KeyError("first")
except RunError as error:
    print(error)
    print(checkpoints.steps())
"""


@pytest.mark.parametrize("where", ["wait", "save", "close"])
def test_a_full_disk_is_one_sentence_at_the_next_call(tmp_path, where):
    run = run_python(DISK_FULL, tmp_path, where)
    assert run.stdout.splitlines() == [
        f"{tmp_path}/2 could not be written (File too large): free space there, or lower checkpoint.keep",
        "[1]",
    ]
    assert run.stderr == ""
    with Checkpoints(tmp_path, KEEP_2) as checkpoints:
        assert checkpoints.steps() == [1]


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunError, match=r"file cannot hold checkpoints \(File exists\): make it writable, or .* run_dir="
    ):
        Checkpoints(tmp_path / "file", KEEP_2)
    with Checkpoints(tmp_path / "here", KEEP_2) as checkpoints:
        checkpoints.save(1, make_state(), meta={}, metrics=None)
        checkpoints.wait()
        shutil.rmtree(tmp_path / "here")
        (tmp_path / "here").write_text("")
        with pytest.raises(
            RunError, match=r"here/2 could not be written \(Not a directory\): make the directory writable"
        ):
            checkpoints.save(2, make_state(), meta={}, metrics=None)


def test_a_failed_save_does_not_hide_the_exception_that_ends_the_run(tmp_path):
    run = run_python(DISK_FULL, tmp_path, "raise")
    assert f"{tmp_path}/2 could not be written (File too large)" in run.stderr
    assert run.stderr.splitlines()[-1] == "KeyError: 'first'"


MESHES = """
import sys, jax, numpy as np
from pathlib import Path
if len(sys.argv) > 2:
    jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]), initialization_timeout=60)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from evotrain.checkpoint import Checkpoints
from test_checkpoint import KEEP_2, abstract, make_state

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
