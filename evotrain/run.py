"""What a training run does besides its steps: it reports, evaluates, saves, keeps time, and ends in order."""

import math
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import jax

from evotrain import evaluation, figures
from evotrain.checkpoint import Checkpoints
from evotrain.config import Config, best_mode
from evotrain.errors import Diverged, EvotrainError, Preempted, RunError
from evotrain.evaluation import SPLIT, Evaluation
from evotrain.logging import RunLogger, read_metrics
from evotrain.parallel import distributed
from evotrain.parallel.replicas import differing_replicas
from evotrain.parallel.reports import Reports
from evotrain.run_dir import RunDir
from evotrain.state import TrainState

# Metrics of the process that the others wait for: the largest value of any process is written.
WORST = ("time/data_wait", "time/example", "time/slowest_example", "time/worker_load")


class Clock:
    """Time per step since the last row, without evaluations and checkpoints. All its metrics are named `time/…`."""

    def __init__(self, config: Config, step_flops: int, feeding: Callable[[], dict[str, float]]):
        self._config, self._step_flops, self._feeding = config, step_flops, feeding
        self.start()

    def start(self) -> None:
        """Begins to count now."""
        self._begun, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is not a step."""
        begun = time.perf_counter()
        yield
        self._begun += time.perf_counter() - begun

    def tick(self) -> None:
        """A step is done."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The metrics of the steps since the last reading."""
        seconds = (time.perf_counter() - self._begun) / self._steps
        tflops = self._step_flops / seconds / 1e12
        metrics = {
            "time/step": seconds,
            "time/examples_per_second": self._config.batch_size / seconds,
            "time/data_wait": self._waited / self._steps,
            "time/tflops_per_device": tflops,
        } | self._feeding()
        if self._config.target.peak_tflops is not None:
            metrics["time/utilisation"] = tflops / self._config.target.peak_tflops
        self.start()
        return metrics


class Run:
    """A run under way: where its rows, figures and checkpoints go."""

    def __init__(
        self, config: Config, run_dir: RunDir, logger: RunLogger, checkpoints: Checkpoints, clock: Clock, *,
        step: int, examples: int, fingerprints: dict[str, str], facts: dict[str, Any],
    ):  # fmt: skip
        self._config, self._run_dir, self._logger = config, run_dir, logger
        self._checkpoints, self._clock, self._facts = checkpoints, clock, facts
        self._done, self._examples, self._fingerprints = step, examples, fingerprints
        self._unread: dict[str, jax.Array] | None = None  # of the step that may still be running
        self._evaluated: dict[str, float] = {}  # metrics of an evaluation that no checkpoint holds yet
        self._last: dict[str, float] = {}
        self._reports = Reports()

    def stepped(self, metrics: dict[str, jax.Array], warnings: list[str]) -> None:
        """Takes the metrics of the step that was just started, and reports those of the step before."""
        self.report()
        self._unread = metrics
        self._warn(warnings)
        self._reports.send(warnings)

    def report(self) -> None:
        """Waits for the step under way and writes its row, if it is due.

        Raises:
          Diverged: its gradient was not finite, as those of many steps before.
        """
        if self._unread is None:
            return
        metrics = {name: value.item() for name, value in jax.device_get(self._unread).items()}
        self._unread = None
        self._done, self._examples = self._done + 1, int(metrics["examples"])
        self._clock.tick()
        config = self._config
        if self._done % config.logger.every == 0 or self._done in (1, config.steps):
            self._last |= metrics
            times = self._clock.read()
            times |= self._reports.largest({name: times[name] for name in WORST})
            self._logger.log(self._done, "train", metrics | times)
        if metrics["skipped"] >= config.optimizer.max_skipped:
            raise Diverged(
                f"the gradients of {int(metrics['skipped'])} steps in a row were not finite, the last of them step "
                f"{self._done}: lower optimizer.lr, or look for the cause with debug=nans."
            )

    def evaluate(self, judge: Evaluation, state: TrainState) -> None:
        """Evaluates the averaged parameters, and draws."""
        self.report()
        with self._clock.paused():
            begun = time.perf_counter()
            report = judge.run(state.ema)
            self._warn([f"a broken example was replaced: {note}" for note in report.notes])
            self._evaluated = report.metrics
            self._last |= {f"{SPLIT}/{name}": value for name, value in report.metrics.items()}
            self._logger.log(self._done, SPLIT, report.metrics | {"time/eval": time.perf_counter() - begun})
            # Before the first step there is nothing to see, and the first step should not wait for it.
            if self._config.logger.figures and self._done > 0 and jax.process_index() == 0:
                self._draw(report)

    def save(self, state: TrainState) -> None:
        """Starts to write a checkpoint, after every row up to it is on disk."""
        self.report()
        with self._clock.paused():
            if self._config.debug.check_replicas and (differing := differing_replicas(state)):
                raise RunError(f"copies of {differing[0]} differ between devices: a device computes wrongly.")
            self._logger.sync()
            metrics = self._evaluated or None
            self._checkpoints.save(
                self._done, state, meta={"examples": self._examples, "data": self._fingerprints}, metrics=metrics
            )
            self._evaluated = {}

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Around the loop: writes summary.json, however the loop ends."""
        status = "failed"
        try:
            yield
            self._checkpoints.wait()
            status = "finished"
        except KeyboardInterrupt:
            status = "preempted"
            raise
        except Preempted:
            self._checkpoints.wait()
            distributed.barrier("saved before the end", 600)  # a launcher may kill the rest when the first one ends
            status = "preempted"
            raise
        except Diverged:
            status = "diverged"
            raise
        except FloatingPointError as error:
            raise RunError(f"debug.nans: step {self._done + 1} made a NaN ({_where(error)}).") from error
        except EvotrainError as error:  # perhaps met by this process alone, while the others wait for it
            distributed.tell_others(str(error))
            raise
        finally:
            with suppress(RunError):  # of a full disk; what ended the run is already on its way up
                self._summarise(status)

    def objective(self) -> float | None:
        """The best value so far of the metric that names the best checkpoint; None if there is none."""
        best = self._config.checkpoint.best
        if jax.process_index() != 0:
            return None
        # Step 0 has no checkpoint: it is what the run started from, not what it reached.
        rows = [row for row in read_metrics(self._run_dir.metrics) if row["split"] == SPLIT and row["step"] > 0]
        values = [row[best] for row in rows if math.isfinite(row.get(best, math.nan))]
        return (min if best_mode(best) == "min" else max)(values, default=None)

    def finished_before(self) -> float | None:
        """Ends a run that had nothing left to do; one that was killed before it could still gets its summary."""
        if jax.process_index() == 0 and self._run_dir.status() != "finished":
            for row in read_metrics(self._run_dir.metrics):
                prefix = "" if row["split"] == "train" else f"{row['split']}/"
                self._last |= {prefix + name: value for name, value in row.items() if name not in ("step", "split")}
            self._summarise("finished")
        return self.objective()

    def _summarise(self, status: str) -> None:
        self._warn(self._reports.received())
        facts = self._facts | {"examples_seen": self._examples}
        self._logger.summary(status, step=self._done, metrics=self._last, facts=facts)

    def _warn(self, warnings: list[str]) -> None:
        for text in warnings:
            self._logger.warn_once(text)

    def _draw(self, report: evaluation.Report) -> None:
        paths = evaluation.draw(report, self._run_dir.figures)
        paths["learning_curves"] = self._run_dir.figures / "learning_curves.png"
        figures.learning_curves(paths["learning_curves"], read_metrics(self._run_dir.metrics))
        for name, path in paths.items():
            self._logger.figure(self._done, name, path)


def _where(error: FloatingPointError) -> str:
    """The first line of what JAX found, and the line of evotrain that made it."""
    what = str(error).partition("\n")[0].strip(" .")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "evotrain" in frame.filename]
    return f"{what}, at {frames[-1].filename}:{frames[-1].lineno}" if frames else what


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Collects the names of SIGTERM and SIGINT, so that the loop can save and end; a second one ends it at once.

    Several processes must stop at the same step. There SIGTERM is left to JAX, with which they agree on one
    (`Checkpoints.reached_preemption`), and SIGINT is made a SIGTERM.
    """
    received: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)

    def terminate(_number: int, _: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    several = distributed.process_count() > 1
    handlers = {signal.SIGINT: terminate} if several else {signal.SIGTERM: note, signal.SIGINT: note}
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
