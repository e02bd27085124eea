"""The published sizes without a pod: shapes go in, a program comes out."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from tiny_run import rows, saved_state

from evotrain.checks import check, resolve_mesh
from evotrain.compose import compose
from evotrain.data.pipeline import batch_shapes
from evotrain.data.sources import open_source
from evotrain.parallel.mesh import make_mesh
from evotrain.state import TrainState, abstract_state
from evotrain.step import train_step
from evotrain.train import train
from evotrain.weights import save_alphafold

DEVICES = 8


@pytest.mark.slow
def test_published_sizes_can_be_traced(repository):
    """With all losses: every shape fits, and so does how every value differs between devices."""
    step, state, batch = program("af2_finetune", repository)
    assert 90e6 < sum(x.size for x in jax.tree.leaves(state.params)) < 95e6
    new_state, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: x.shape, new_state) == jax.tree.map(lambda x: x.shape, state)
    assert {"loss/violation", "loss/plddt", "loss/resolved", "loss/chi", "grad_norm"} <= metrics.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("experiment", ["af2_initial", "af2_finetune"])
def test_published_sizes_compile(experiment, repository):
    step, state, batch = program(experiment, repository)
    compiled = step.lower(state, batch).compile()
    # Parameters, moments and average over eight devices, and little that is replicated.
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert compiled.memory_analysis().argument_size_in_bytes < 1.05 * whole / DEVICES + sum(
        x.size * x.dtype.itemsize for x in batch.values()
    )


@pytest.mark.nightly
def test_both_experiments_train_at_a_reduced_depth(realdata, one_device, tmp_path):
    """On real proteins; fine-tuning starts from what initial training wrote under the published names."""
    small = [
        f"data.root={realdata}", "model.blocks=2", "model.extra_msa.blocks=1", "model.template.blocks=1",
        "model.c_m=64", "model.c_z=64", "model.structure.c_s=128", "data.crop=48", "data.msa_clusters=28",
        "data.extra_msa=64", "data.eval_examples=8", "data.workers=0", "batch_size=1", "precision=fp32",
        "logger=files", "mesh.data=1",
    ]  # fmt: skip
    rates = ["optimizer.warmup_examples=40", "optimizer.decay_examples=null", "optimizer.ema_decay=0.95"]
    initial = compose(["+experiment=af2_initial", *small, *rates, f"run_dir={tmp_path}/initial", "steps=300"])
    train(initial)
    first, *_, last = (row for row in rows(tmp_path / "initial") if row["split"] == "eval/held_out")
    falling = [name for name in first if name.startswith("loss") and name != "loss/resolved"]  # of weight 0 here
    assert len(falling) == 8
    assert not [name for name in falling if not last[name] < first[name]]

    save_alphafold(saved_state(tmp_path / "initial").ema, tmp_path / "params.npz")
    start = [f"init_from={tmp_path}/params.npz", f"run_dir={tmp_path}/finetune", "steps=4", "eval_every=4"]
    train(compose(["+experiment=af2_finetune", *small, *start, "logger.every=1"]))
    begun = rows(tmp_path / "finetune")
    assert begun[0]["loss/masked_msa"] == pytest.approx(last["loss/masked_msa"], rel=1e-3)
    assert all(math.isfinite(row["loss/violation"]) for row in begun)


def program(experiment: str, repository: Path) -> tuple[Any, TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """The jitted step on eight devices, and the shapes of what it is given."""
    config = compose(
        [f"+experiment={experiment}", f"data.root={repository / 'data/sample'}", "mesh=fsdp", f"batch_size={DEVICES}"]
    )
    check(config, DEVICES)
    config = replace(config, mesh=resolve_mesh(config.mesh, DEVICES))
    mesh = make_mesh(config.mesh)
    batch = batch_shapes(open_source(config), config, mesh)
    return train_step(config, mesh), abstract_state(config, mesh), batch
