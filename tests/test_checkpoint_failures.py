"""What is left of checkpoints that were damaged, of a process that was killed, and on a disk that is full."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from checkpoint_states import KEEP_2, abstract, assert_same_bits, make_state, run_python, save_steps

from evotrain.checkpoint import Checkpoints
from evotrain.errors import RunError


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
