import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evotrain import run_dir as run_dir_module
from evotrain.errors import RunError
from evotrain.run_dir import RunDir, disk_errors, write_atomic

HOLD_THE_LOCK = """
import sys, time
from evotrain.run_dir import RunDir
RunDir.open(sys.argv[1])
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def run_dir(tmp_path):
    with RunDir.open(tmp_path / "runs" / "x") as opened:
        yield opened


def hold_in_another_process(path: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout.readline() == b"locked\n"
    return process


def fail_with(number: int):
    def fail(*_args, **_keywords):
        raise OSError(number, os.strerror(number))

    return fail


def test_directory_of_a_live_process_is_refused_and_of_a_dead_one_is_not(tmp_path):
    other = hold_in_another_process(tmp_path)
    try:
        with pytest.raises(
            RunError, match=rf"{tmp_path} is in use by process {other.pid} on host .*; wait for it to end, or"
        ):
            RunDir.open(tmp_path)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with RunDir.open(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on host ")


def test_close_gives_the_lock_up(tmp_path):
    first = RunDir.open(tmp_path)
    with pytest.raises(RunError, match="is in use"):
        RunDir.open(tmp_path)
    first.close()
    first.close()
    RunDir.open(tmp_path).close()


def test_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(run_dir_module.fcntl, "flock", fail_with(errno.ENOLCK))
    with pytest.warns(UserWarning, match="cannot be locked"):
        RunDir.open(tmp_path).close()


def test_paths(tmp_path):
    paths = RunDir(tmp_path)
    names = [paths.config, paths.metrics, paths.summary, paths.checkpoints, paths.figures, paths.wandb_id]
    assert [path.relative_to(tmp_path).as_posix() for path in names] == [
        "config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "figures", "wandb_id",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.ENOENT, "no directory can be made there"),  # as below /proc
    ],
)
def test_disk_errors_become_one_sentence(number, sentence):
    with pytest.raises(RunError, match=sentence) as caught, disk_errors("runs/x"):
        fail_with(number)()
    assert str(caught.value).startswith("cannot write runs/x: ")
    assert "\n" not in str(caught.value)


def test_other_os_errors_pass():
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), disk_errors("runs/x"):
        fail_with(errno.EIO)()


def test_uncreatable_directories_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="a file stands where the directory should be"):
        RunDir.open(tmp_path / "file")
    with pytest.raises(RunError, match="a part of the path is a file"):
        RunDir.open(tmp_path / "file" / "x")
    # Permissions do not stop root, so a read-only disk is played.
    monkeypatch.setattr(Path, "mkdir", fail_with(errno.EROFS))
    with pytest.raises(RunError, match="the file system is read-only: choose a writable run_dir=…"):
        RunDir.open(tmp_path / "x")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, broken):
    path = tmp_path / "summary.json"
    write_atomic(path, b"old")
    monkeypatch.setattr(run_dir_module.os, broken, fail_with(errno.ENOSPC))
    with pytest.raises(RunError, match="the disk is full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_summary_and_config(run_dir):
    run_dir.write_summary({"status": "finished", "step": 4})
    run_dir.write_config("name: x\n")
    assert json.loads(run_dir.summary.read_text()) == {"status": "finished", "step": 4}
    assert run_dir.config.read_text() == "name: x\n"
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_dir.write_summary({"loss": float("nan")})


def test_cut_metrics_keeps_the_bytes_of_the_rows_up_to_the_step(run_dir):
    # Spacing that our own writer would not produce shows that the lines are not parsed and written anew.
    kept = b'{"step":1,  "split":"train","loss":0.1}\n{"step":2,"split":"train","loss":1e-07}\n'
    run_dir.metrics.write_bytes(kept + b'{"step":3,"split":"train","loss":0.3}\n')
    assert run_dir.cut_metrics(2) == 1
    assert run_dir.metrics.read_bytes() == kept
    assert run_dir.cut_metrics(-1) == 2
    assert run_dir.metrics.read_bytes() == b""


@pytest.mark.parametrize("torn", [b'{"step":2,"spl', b'{"step":2,"split":"train"}', b"\0\0\0\n"])
def test_cut_metrics_removes_a_torn_line(run_dir, torn):
    row = b'{"step":1,"split":"train"}\n'
    run_dir.metrics.write_bytes(row + torn)
    assert run_dir.cut_metrics(5) == 1
    assert run_dir.metrics.read_bytes() == row


def test_cut_metrics_leaves_what_is_whole_untouched(run_dir, monkeypatch):
    assert run_dir.cut_metrics(0) == 0
    run_dir.metrics.write_bytes(b'{"step":1,"split":"train"}\n')
    monkeypatch.setattr(run_dir_module, "write_atomic", fail_with(errno.EIO))
    assert run_dir.cut_metrics(1) == 0


def test_start_over_forgets_rows_and_wandb_run(run_dir):
    run_dir.start_over()
    run_dir.metrics.write_bytes(b'{"step":1,"split":"train"}\n')
    run_dir.wandb_id.write_text("abc")
    run_dir.start_over()
    assert run_dir.metrics.read_bytes() == b""
    assert not run_dir.wandb_id.exists()


def test_free_space_check(run_dir, monkeypatch):
    run_dir.free_space_check(0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, int(0.3 * 2**30)))
    with pytest.raises(RunError) as caught:
        run_dir.free_space_check(int(1.2 * 2**30))
    assert str(caught.value) == (
        f"needs about 1.2 GiB more for checkpoints, 0.3 GiB are free at {run_dir.path}: free some, "
        "or lower checkpoint.keep"
    )
    # What the checkpoints of an earlier start take up will be replaced, not added to.
    run_dir.checkpoints.mkdir()
    (run_dir.checkpoints / "held").write_bytes(b"")
    os.truncate(run_dir.checkpoints / "held", 2**30)
    run_dir.free_space_check(int(1.2 * 2**30))
