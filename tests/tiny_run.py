"""A run that takes seconds, for the tests that train: generated families, one narrow block, six steps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from evotrain.checkpoint import Checkpoints
from evotrain.compose import compose, flatten, load_saved
from evotrain.config import Config
from evotrain.parallel.mesh import make_mesh
from evotrain.run_dir import RunDir
from evotrain.state import TrainState, abstract_state
from evotrain.train import train

STEPS = 6
BATCH_SIZE = 2
# Tests that train share these sizes, and with them the compiled programs. 32 residues are enough for long-range pairs.
SIZES = [
    "model.blocks=1", "model.c_m=16", "model.c_z=16", "model.msa_heads=2", "model.pair_heads=2", "model.c_outer=4",
    "model.c_triangle=16", "data.crop=32", "data.msa_clusters=8", "data.eval_examples=4", f"batch_size={BATCH_SIZE}",
]  # fmt: skip
TINY = [
    "name=tiny", *SIZES, f"steps={STEPS}", "eval_every=2", "checkpoint.every=1", "checkpoint.best=loss",
    "logger=files", "logger.figures=false", "logger.every=1",
]  # fmt: skip

# Keys that decide which program a step is, and keys among them that do not.
PROGRAM = ("seed", "batch_size", "model", "mesh", "optimizer", "data", "precision", "kernels")
NOT_PROGRAM = ("optimizer.max_skipped", "data.root", "data.workers", "data.coupling")


def tiny_config(run_dir: Path | str, *overrides: str) -> Config:
    return compose([*TINY, f"run_dir={run_dir}", *overrides])


def train_tiny(run_dir: Path | str, *overrides: str) -> float | None:
    """Trains in this process and returns the objective."""
    return train(tiny_config(run_dir, *overrides))


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what depends on the clock; null stays None, which equals itself."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [without_time(json.loads(line)) for line in lines]


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


def summary(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "summary.json").read_text())


def saved_state(run_dir: Path, step: int | None = None) -> TrainState:
    """The newest checkpoint, or that of `step`, as numpy arrays."""
    paths = RunDir(run_dir)
    config = load_saved(paths.config)
    mesh = make_mesh(replace(config.mesh, data=1, fsdp=1, context=1))
    with Checkpoints(paths.checkpoints, config.checkpoint, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(step, abstract_state(config, mesh))
    return jax.tree.map(np.asarray, state)


def assert_same_bits(found: Any, expected: Any) -> None:
    """Two trees of arrays are equal to the bit; the message names the first array that is not."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True)
    for (path, a), b in pairs:
        assert a.tobytes() == b.tobytes(), jax.tree_util.keystr(path)


def remembering(make: Any, programs: dict[str, Any]) -> Any:
    """`make(config, mesh)`, which gives the same jitted step again for the same program: it is traced once."""

    def remembered(config: Config, mesh: Any) -> Any:
        values = {key: value for key, value in flatten(config).items() if decides_the_program(key)}
        name = f"{make.__name__} {values}"
        if name not in programs:
            programs[name] = make(config, mesh)
        return programs[name]

    return remembered


def decides_the_program(key: str) -> bool:
    return key.partition(".")[0] in PROGRAM and key not in NOT_PROGRAM
