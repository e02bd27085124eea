"""`command=evaluate`: a run's checkpoint on a data set, as a table, a JSON file and figures."""

import dataclasses
import json
import math
from contextlib import ExitStack
from pathlib import Path

import jax

from evotrain import evaluation
from evotrain.checks import check, resolve_mesh
from evotrain.config import Config
from evotrain.console import Console
from evotrain.data.sources import open_source
from evotrain.evaluation import Evaluation
from evotrain.metrics import write_per_protein
from evotrain.model.kernels import check_available
from evotrain.parallel import devices, distributed
from evotrain.parallel.mesh import make_mesh
from evotrain.resume import check_hosts_agree, load_params
from evotrain.run_dir import disk_errors, write_atomic
from evotrain.state import abstract_state
from evotrain.step import eval_step


def evaluate_run(config: Config) -> float | None:
    """Evaluates the averaged parameters of `evaluate.checkpoint` and writes to `<run_dir>/evaluate/<data>-<step>/`.

    `config` is that of the run, with what the command line changes. Returns the metric that names the best checkpoint.

    Raises:
      EvotrainError: a mistake in the configuration or the data, or a checkpoint that cannot be used.
    """
    distributed.start()
    devices.find()
    check(config, jax.device_count(), processes=jax.process_count())
    check_available(config)
    config = dataclasses.replace(config, mesh=resolve_mesh(config.mesh, jax.device_count()))
    mesh = make_mesh(config.mesh)
    asked = config.evaluate.examples or config.data.eval_examples
    with distributed.on_every_process():
        source = open_source(dataclasses.replace(config, data=dataclasses.replace(config.data, eval_examples=asked)))
    check_hosts_agree(source)
    which = config.evaluate.checkpoint
    params, step = load_params(config.run_dir, which, abstract_state(config, mesh).ema)

    report = Evaluation(source, config, mesh, eval_step(config, mesh), source.held_out).run(params)
    if not distributed.is_primary():
        return None
    directory = Path(config.run_dir) / "evaluate" / f"{config.data.source}-{step}"
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    metrics = {name: value if math.isfinite(value) else None for name, value in report.metrics.items()}
    found = {"step": step, "data": source.description, "examples": source.held_out, "metrics": metrics}
    write_atomic(directory / "metrics.json", (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
    write_per_protein(directory / "per_protein.csv", report.rows)
    evaluation.draw(report, directory)
    with ExitStack() as resources:
        console = Console(total_steps=step)
        resources.callback(console.close)
        fewer = f" ({asked} were asked for)" if source.held_out < asked else ""
        examples = f"{source.held_out} held-out examples{fewer} of {source.description}"
        console.event(f"Step {step} of {config.run_dir} on {examples}:")
        for note in report.notes:
            console.warn_once(f"a broken example was replaced: {note}")
        console.show_evaluation(report.metrics)
        console.event(f"Written to {directory}.")
    return report.metrics.get(config.checkpoint.best)
