"""`command=predict`: structures of proteins that have none, from an alignment or a sequence alone."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from evotrain.checks import check
from evotrain.config import Config
from evotrain.console import Console
from evotrain.data.queries import find_queries
from evotrain.errors import ConfigError, DataError
from evotrain.folding import Folding
from evotrain.model.kernels import check_available
from evotrain.parallel import distributed
from evotrain.parallel.mesh import make_mesh
from evotrain.prediction_files import write_fold
from evotrain.resume import load_params, place_alphafold
from evotrain.state import abstract_state
from evotrain.step import predict_step

PREDICTIONS = "predictions"  # the directory that is written where there is no run


def predict_run(config: Config) -> None:
    """Predicts what `predict.input` names and writes a folder for each protein (see `prediction_files`).

    A protein that cannot be read, or that is too long for the memory of the devices, is left out with a warning.

    Raises:
      EvotrainError: a mistake in the configuration, parameters that cannot be used, or a protein that was left out.
    """
    distributed.start()
    check(config, None)
    _check_use(config)
    check_available(config)
    mesh = prediction_mesh(config)
    queries = find_queries(Path(config.predict.input))
    directory = output_directory(config)
    params, origin = _parameters(config, mesh)
    failures: list[str] = []
    with ExitStack() as resources:
        console = Console(total_steps=len(queries))
        resources.callback(console.close)
        console.event(f"Folds {_proteins(len(queries))} of {config.predict.input} with {origin}.")
        folding = Folding(config, mesh, predict_step(config, mesh), params, console.event)
        for query in queries:
            try:
                fold = folding.fold(query)
            except DataError as error:
                failures.append(f"{query.name}: {error}")
                console.warn_once(failures[-1])
            else:
                write_fold(directory / query.name, fold)
        if len(failures) < len(queries):
            place = directory / queries[0].name if len(queries) == 1 else directory
            console.event(f"Structures, confidences and figures are in {place}.")
    if failures:
        raise DataError(f"{len(failures)} of {_proteins(len(queries))} could not be folded; {failures[0]}")


def output_directory(config: Config) -> Path:
    """`predict.out`; else `predict` in the run's directory, or `predictions` where published parameters are used."""
    if config.predict.out is not None:
        return Path(config.predict.out)
    return Path(PREDICTIONS) if config.predict.weights is not None else Path(config.run_dir) / "predict"


def prediction_mesh(config: Config) -> Mesh:
    """The mesh of one example: `mesh.context` devices share it, whatever the other axes were in training.

    Raises:
      ConfigError: there are fewer devices.
    """
    devices = jax.device_count()
    context = devices if config.mesh.context == -1 else config.mesh.context
    if context > devices:
        raise ConfigError(
            f"mesh.context={context} needs {context} devices, but there {'is' if devices == 1 else 'are'} {devices}: "
            f"write mesh.context={devices}, or mesh.simulate={context} to try it on CPU devices."
        )
    return make_mesh(replace(config.mesh, data=1, fsdp=1, context=context))


def _check_use(config: Config) -> None:
    """Refuses what cannot be folded, or cannot fold."""
    if config.predict.input is None:
        raise ConfigError(
            "command=predict needs proteins: write predict.input=query.a3m, a FASTA file, or a directory of them."
        )
    if not config.model.structure.layers:
        raise ConfigError(
            "command=predict needs a model that predicts structures, but this one has model.structure.layers=0: name "
            "another run_dir=…, or predict.weights=…."
        )
    if distributed.process_count() > 1:
        raise ConfigError("command=predict runs in one process: start it once, without the launcher.")


def _parameters(config: Config, mesh: Mesh) -> tuple[Any, str]:
    """The parameters, and a few words that say which."""
    abstract = abstract_state(config, mesh).ema
    if config.predict.weights is not None:
        return place_alphafold(config.predict.weights, config.model, abstract), config.predict.weights
    params, step = load_params(config.run_dir, config.predict.checkpoint, abstract)
    return params, f"step {step} of {config.run_dir}"


def _proteins(count: int) -> str:
    return "1 protein" if count == 1 else f"{count} proteins"
