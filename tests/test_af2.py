"""The published sizes compile, without a pod: shapes go in, a program comes out."""

from dataclasses import replace

import jax
import pytest

from evotrain.checks import check, resolve_mesh
from evotrain.compose import compose
from evotrain.data.pipeline import batch_shapes
from evotrain.data.sources import open_source
from evotrain.parallel.mesh import batch_sharding, make_mesh
from evotrain.state import abstract_state
from evotrain.step import train_step


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["af2_initial", "af2_finetune"])
def test_published_sizes_compile(experiment, repository):
    config = compose(
        [f"+experiment={experiment}", f"data.root={repository / 'data/sample'}", "mesh=fsdp", "batch_size=8"]
    )
    check(config, jax.device_count())
    config = replace(config, mesh=resolve_mesh(config.mesh, jax.device_count()))
    mesh = make_mesh(config.mesh)
    state = abstract_state(config, mesh)
    batch = batch_shapes(open_source(config), config.batch_size, batch_sharding(mesh))
    compiled = train_step(config, mesh).lower(state, batch).compile()
    assert 85e6 < sum(x.size for x in jax.tree.leaves(state.params)) < 95e6
    # Parameters, moments and average over eight devices, and little that is replicated.
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert compiled.memory_analysis().argument_size_in_bytes < 1.05 * whole / 8 + sum(
        x.size * x.dtype.itemsize for x in batch.values()
    )
