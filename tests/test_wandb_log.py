import os
import sys
from pathlib import Path

import pytest

from evotrain import wandb_log
from evotrain.config import LoggerConfig
from evotrain.run_dir import RunDir

wandb = pytest.importorskip("wandb")


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A run directory, in a process that knows no credentials and no W&B settings of this machine."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, file in (("NETRC", "netrc"), ("WANDB_CONFIG_DIR", "config"), ("WANDB_CACHE_DIR", "cache")):
        monkeypatch.setenv(name, str(tmp_path / file))
    wandb.teardown()
    with RunDir.open(tmp_path / "run") as opened:
        yield opened
    wandb.teardown()


@pytest.fixture
def warnings():
    return []


def start(run_dir, warnings, **config):
    return wandb_log.start(LoggerConfig(**config), run_dir, "x", {"seed": 0}, warn=warnings.append)


def offline_runs(run_dir: RunDir) -> list[Path]:
    return sorted((run_dir.path / "wandb").glob("offline-run-*"))


def logged_rows(monkeypatch) -> list[dict]:
    """Records what W&B is given from now on."""
    rows = []
    log = wandb.Run.log

    def record(run, data, step=None):
        rows.append(data | {"wandb_step": step})
        log(run, data, step=step)

    monkeypatch.setattr(wandb.Run, "log", record)
    return rows


def test_off_is_off(run_dir, warnings):
    assert start(run_dir, warnings, wandb="off") is None
    assert not run_dir.wandb_id.exists()
    assert warnings == []


def test_auto_without_credentials_is_offline_and_silent(run_dir, warnings, capfd):
    log = start(run_dir, warnings)
    log.log(1, "train", {"loss": 2.0})
    log.finish()
    (offline,) = offline_runs(run_dir)
    assert offline.name.endswith(run_dir.wandb_id.read_text())
    assert (offline / f"run-{run_dir.wandb_id.read_text()}.wandb").stat().st_size > 0
    assert warnings == []
    assert capfd.readouterr() == ("", "")


def test_online_without_credentials_says_so_and_does_not_ask(run_dir, warnings):
    start(run_dir, warnings, wandb="online").finish()
    assert warnings == ["W&B logs offline: there are no credentials, run `wandb login` or set WANDB_API_KEY"]
    assert len(offline_runs(run_dir)) == 1


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_unreachable_server_means_offline_with_one_warning(run_dir, warnings, monkeypatch, mode, capfd):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    log = start(run_dir, warnings, wandb=mode, timeout=1)
    log.log(1, "train", {"loss": 2.0})
    log.finish()
    (warning,) = warnings
    assert warning.startswith(f"W&B logs offline, send it later with `wandb sync {run_dir.path}")
    assert "\n" not in warning
    assert len(offline_runs(run_dir)) == 1
    assert capfd.readouterr() == ("", "")


def test_malformed_key_means_offline_with_one_warning(run_dir, warnings, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    start(run_dir, warnings).finish()
    (warning,) = warnings
    assert warning.startswith("W&B logs offline: ")


def test_wandb_mode_of_the_environment_decides_auto(run_dir, warnings, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert start(run_dir, warnings) is None
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    start(run_dir, warnings).finish()
    assert len(offline_runs(run_dir)) == 1
    assert warnings == []


def test_missing_package_is_one_warning(run_dir, warnings, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert start(run_dir, warnings) is None
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B cannot start, and the training goes on without it")


def test_names_and_steps(run_dir, warnings, monkeypatch):
    log = start(run_dir, warnings, wandb="offline")
    rows = logged_rows(monkeypatch)
    log.log(2, "train", {"loss": 2.0})
    log.log(4, "eval/held_out", {"loss": 3.0})
    log.log(3, "train", {"loss": 1.5})  # fetched one step late: W&B's own step stays, the axis tells the truth
    log.finish()
    assert rows == [
        {"step": 2, "train/loss": 2.0, "wandb_step": 2},
        {"step": 4, "eval/held_out/loss": 3.0, "wandb_step": 4},
        {"step": 3, "train/loss": 1.5, "wandb_step": 4},
    ]
    assert warnings == []


def test_restart_keeps_the_id_and_does_not_send_rows_again(run_dir, warnings, monkeypatch):
    first = start(run_dir, warnings, wandb="offline")
    for step in (1, 2, 3):
        first.log(step, "train", {"loss": 2.0})
    first.finish()
    wandb_id = run_dir.wandb_id.read_text()
    second = start(run_dir, warnings, wandb="offline")
    rows = logged_rows(monkeypatch)
    for step in (2, 3, 4):
        second.log(step, "train", {"loss": 2.0})
    second.finish()
    assert run_dir.wandb_id.read_text() == wandb_id
    assert [row["step"] for row in rows] == [4]


def test_run_that_starts_over_is_a_new_wandb_run(run_dir, warnings, monkeypatch):
    first = start(run_dir, warnings, wandb="offline")
    first.log(5, "train", {"loss": 2.0})
    first.finish()
    wandb_id = run_dir.wandb_id.read_text()
    run_dir.start_over()
    second = start(run_dir, warnings, wandb="offline")
    rows = logged_rows(monkeypatch)
    second.log(1, "train", {"loss": 2.0})
    second.finish()
    assert run_dir.wandb_id.read_text() != wandb_id
    assert [row["step"] for row in rows] == [1]


def test_killed_run_sends_its_last_row_again(run_dir, warnings, monkeypatch):
    """The last row may still have been in W&B's hands when the run was killed."""
    killed = start(run_dir, warnings, wandb="offline")
    for step in (1, 2, 3):
        killed.log(step, "train", {"loss": 2.0})
    second = start(run_dir, warnings, wandb="offline")
    rows = logged_rows(monkeypatch)
    for step in (2, 3, 4):
        second.log(step, "train", {"loss": 2.0})
    second.finish()
    assert [row["step"] for row in rows] == [3, 4]


def test_figures_are_sent_as_images(run_dir, warnings, monkeypatch):
    from matplotlib.figure import Figure

    path = run_dir.path / "contacts.png"
    Figure(figsize=(1, 1)).savefig(path)
    log = start(run_dir, warnings, wandb="offline")
    rows = logged_rows(monkeypatch)
    log.figure(1, "contacts", path)
    log.finish()
    assert isinstance(rows[0]["figures/contacts"], wandb.Image)
    assert list((run_dir.path / "wandb").rglob("media/images/figures/*.png"))


def test_failures_of_logging_are_warnings(run_dir, warnings, monkeypatch):
    log = start(run_dir, warnings, wandb="offline")

    def fail(*_args, **_keywords):
        raise RuntimeError("the service\nis gone")

    monkeypatch.setattr(wandb.Run, "log", fail)
    log.log(1, "train", {"loss": 2.0})
    log.figure(2, "missing", run_dir.path / "missing.png")
    log.finish()
    assert warnings[0] == "W&B failed, and the training goes on without it: the service is gone"
    assert len(warnings) == 2
