"""Weights & Biases on process 0: online with credentials, else offline, and never in the way of the training.

Whatever W&B fails at is one warning. A run keeps one id over its restarts, and a row is sent once: W&B cannot replace
a row, and those that a restarted run computes again equal the ones that were sent.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evotrain.config import LoggerConfig
from evotrain.run_dir import RunDir, write_atomic

FINISH_TIMEOUT = 60  # seconds that the end of a run may wait for uploads; what is left stays on disk for `wandb sync`


class WandbLog:
    """One W&B run; `start` makes it. A method that fails warns once and returns."""

    def __init__(self, run: Any, *, sent_file: Path, warn: Callable[[str], None]):
        self._run = run
        self._warn = warn
        self._sent_file = os.open(sent_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # A resumed online run knows the steps that its server has; of an offline run only this file does.
        self._sent = max(int(os.pread(self._sent_file, 32, 0) or -1), run.starting_step - 1)
        self._newest = self._sent
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    def log(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Sends a row under the names `<split>/<metric>`; rows of steps that an earlier start sent are dropped."""
        self._send(step, {f"{split}/{name}": value for name, value in metrics.items()})

    def figure(self, step: int, name: str, path: Path) -> None:
        """Sends the image at `path` under the name `figures/<name>`."""
        with self._swallowed():
            import wandb

            self._send(step, {f"figures/{name}": wandb.Image(str(path))})

    def finish(self, *, failed: bool = False) -> None:
        """Ends the run, waiting a bounded time for uploads."""
        with self._swallowed():
            self._run.finish(exit_code=int(failed))
            self._mark_sent(self._newest)
        os.close(self._sent_file)

    def _send(self, step: int, row: dict[str, Any]) -> None:
        if step <= self._sent:
            return
        with self._swallowed():
            if step > self._newest:
                # W&B holds a step's row back until a later step begins, so only now is the one before it safe.
                self._mark_sent(self._newest)
                self._newest = step
            # W&B's own step must not go back; the row's "step" is the axis, and it may.
            self._run.log({"step": step, **row}, step=self._newest)

    def _mark_sent(self, step: int) -> None:
        os.pwrite(self._sent_file, f"{step:<20}\n".encode(), 0)

    @contextmanager
    def _swallowed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._warn(f"W&B failed, and the training goes on without it: {_one_line(error)}")


def start(
    config: LoggerConfig, run_dir: RunDir, name: str, config_dict: Mapping[str, Any], *, warn: Callable[[str], None]
) -> WandbLog | None:
    """Starts or resumes the W&B run of a run directory, within about `config.timeout` seconds.

    Returns None with `logger.wandb=off` or WANDB_MODE=disabled, and after a warning if W&B cannot even write to disk.
    """
    if config.wandb == "off":
        return None
    try:
        import wandb

        wandb.setup(wandb.Settings(silent=True, quiet=True))
        mode = _choose_mode(config.wandb, warn)
        if mode == "disabled":
            return None
        run = _init(config, run_dir, name, config_dict, mode, warn)
        return WandbLog(run, sent_file=run_dir.path / "wandb" / f"{run.id}.sent", warn=warn)
    # W&B raises what it likes, from its own errors to those of sockets; none of them is worth a run.
    except Exception as error:
        warn(f"W&B cannot start, and the training goes on without it: {_one_line(error)}")
        return None


def _choose_mode(mode: str, warn: Callable[[str], None]) -> str:
    """Whether to go online; without usable credentials W&B would ask for them, and a job has nobody to answer."""
    import wandb

    if mode == "auto":
        # W&B's own variable, which launchers and clusters set.
        mode = os.environ.get("WANDB_MODE", mode)
    if mode in ("offline", "disabled"):
        return mode
    try:
        if wandb.login(prompt=False, verify=False):
            return "online"
        if mode == "online":
            warn("W&B logs offline: there are no credentials, run `wandb login` or set WANDB_API_KEY")
    except Exception as error:
        warn(f"W&B logs offline: {_one_line(error)}")
    return "offline"


def _init(
    config: LoggerConfig,
    run_dir: RunDir,
    name: str,
    config_dict: Mapping[str, Any],
    mode: str,
    warn: Callable[[str], None],
) -> Any:
    """Calls `wandb.init`, a second time and offline if the server does not answer."""
    import wandb

    settings = wandb.Settings(
        silent=True,
        quiet=True,
        console="off",
        reinit="finish_previous",
        init_timeout=config.timeout,
        finish_timeout=FINISH_TIMEOUT,
    )
    arguments = {
        "project": config.project,
        "entity": config.entity,
        "name": name,
        "id": _run_id(run_dir.wandb_id),
        "dir": run_dir.path,
        "config": dict(config_dict),
        "allow_val_change": True,
        "settings": settings,
    }
    if mode != "online":
        return wandb.init(mode=mode, **arguments)
    try:
        return wandb.init(mode="online", resume="allow", **arguments)
    except Exception as error:
        warn(
            f"W&B logs offline, send it later with `wandb sync {run_dir.path}/wandb/offline-run-*`: {_one_line(error)}"
        )
        # W&B's service still counts the id as in use by the run that failed to start.
        wandb.teardown()
        wandb.setup(wandb.Settings(silent=True, quiet=True))
        return wandb.init(mode="offline", **arguments)


def _run_id(path: Path) -> str:
    """The id in the file at `path`, made at the first start."""
    if not path.exists():
        write_atomic(path, secrets.token_hex(8).encode())
    return path.read_text().strip()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
