"""The step of the whole network, all of its parts and two recycles, on meshes equals a plain program on one device."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.config import (
    Config,
    ExtraMSAConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    StructureConfig,
    TemplateConfig,
)
from evotrain.data.features.example import example, example_shape
from evotrain.data.pipeline import stack
from evotrain.data.protein import Protein, Templates
from evotrain.data_config import CoevolutionConfig
from evotrain.model.network import bind, draw_choices, network
from evotrain.parallel import fsdp
from evotrain.parallel.mesh import ALL_AXES, batch_sharding
from evotrain.parallel.replicas import differing_replicas
from evotrain.step import CHOICES_STREAM, DROPOUT_STREAM, gradient_step

BATCH, RESIDUES, SEEN = 2, 8, 8  # at 8 examples two recycles are drawn
ERROR = 1e-5

CONFIG = Config(
    name="test",
    steps=2,
    batch_size=BATCH,
    eval_every=0,
    model=ModelConfig(
        blocks=2,
        c_m=16,
        c_z=16,
        msa_heads=2,
        pair_heads=2,
        c_outer=8,
        c_triangle=16,
        transition_factor=2,
        recycles=3,
        extra_msa=ExtraMSAConfig(blocks=2, c_m=8, heads=2),
        template=TemplateConfig(blocks=2, c_t=8, heads=2),
        structure=StructureConfig(
            layers=2, c_s=16, heads=2, scalar_dim=4, query_points=2, value_points=2, c_sidechain=8, c_confidence=8,
            aligned_error=True,
        ),
        loss=LossConfig(resolved=0.5, violation=0.1, aligned_error=0.5),
    ),
    optimizer=OptimizerConfig(clip="none", warmup_examples=0),
    data=CoevolutionConfig(crop=RESIDUES, msa_clusters=4, extra_msa=4, templates=4),
)  # fmt: skip
Shape = tuple[int, int, int]


@cache
def params() -> Any:
    """Parameters drawn by numpy, none of them zero; small enough for atoms to stay within some tens of Å."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, x: Any) -> np.ndarray:
        return (float(path[-1].key == "scale") + rng.normal(size=x.shape, scale=0.1)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, network(CONFIG)[1])


def protein(seed: int, residues: int) -> Protein:
    """A chain of scattered atoms; features and losses do not ask whether it could exist."""
    rng = np.random.default_rng(seed)
    atoms = (residues, 37)

    def positions(*leading: int) -> np.ndarray:
        steps = 3.0 * rng.normal(size=(*leading, residues, 1, 3)).cumsum(-3)
        return (steps + rng.normal(size=(*leading, *atoms, 3))).astype(np.float32)

    return Protein(
        name=f"scattered-{seed}",
        msa=rng.integers(0, 20, (12, residues), np.uint8),
        deletions=rng.integers(0, 3, (12, residues), np.int32),
        atom_positions=positions(),
        atom_mask=(rng.random(atoms) < 0.9).astype(np.float32),
        residue_index=np.arange(residues, dtype=np.int32),
        b_factor=np.zeros(residues, np.float32),
        resolution=2.0,
        templates=Templates(
            aatype=rng.integers(0, 20, (3, residues), np.int32),
            atom_positions=positions(3),
            atom_mask=(rng.random((3, *atoms)) < 0.9).astype(np.float32),
        ),
    )


@cache
def batch() -> dict[str, np.ndarray]:
    """One example that fills its crop, and one of which the last context shards hold nothing but padding."""
    shape = example_shape(CONFIG)
    examples = [
        example(protein(seed, residues), np.random.default_rng(seed), shape) | {"skipped": np.float32(0)}
        for seed, residues in enumerate((RESIDUES, RESIDUES // 2))
    ]
    return stack(examples)


@cache
def expected() -> Any:
    """The mean gradient and metrics, outside of any mesh."""
    graphdef, _ = network(CONFIG)
    stream, choice = (
        jax.random.fold_in(jax.random.key(CONFIG.seed), stream) for stream in (DROPOUT_STREAM, CHOICES_STREAM)
    )
    choices = draw_choices(CONFIG.model, jax.random.fold_in(choice, SEEN))
    assert choices.recycles > 0
    keys = jax.vmap(partial(jax.random.fold_in, stream))(SEEN + jnp.arange(BATCH))

    def loss(params: Any, example: Any, key: jax.Array) -> Any:
        return bind(graphdef, params).loss(example, key, choices)

    gradients = jax.jit(jax.vmap(jax.grad(loss, has_aux=True), (None, 0, 0)), compiler_options=QUICK)
    return jax.tree.map(lambda x: np.mean(x, axis=0), jax.device_get(gradients(params(), batch(), keys)))


@pytest.mark.parametrize(
    "shape",
    [pytest.param((1, 2, 4), marks=pytest.mark.slow), pytest.param((2, 1, 2), marks=pytest.mark.nightly)],
    ids=str,
)
def test_the_gradient_is_that_of_a_plain_program(shape: Shape):
    data, parts, context = shape
    config = replace(CONFIG, mesh=MeshConfig(data=data, fsdp=parts, context=context))
    devices = jax.devices()[: np.prod(shape)]
    mesh = jax.make_mesh(shape, ALL_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    placed = jax.device_put(params(), fsdp.shardings(params(), mesh))
    examples = jax.device_put(batch(), batch_sharding(mesh))
    program = gradient_step(config, mesh).lower(placed, examples, jnp.int32(SEEN)).compile(QUICK)
    grads, metrics = program(placed, examples, jnp.int32(SEEN))

    wanted_grads, wanted_metrics = expected()
    error, array = largest_error(grads, wanted_grads)
    metric_error, metric = largest_error(
        metrics, wanted_metrics | {"data/substituted": np.float32(0), "data/skipped": np.float32(0)}
    )
    print(f"{shape}: gradients {error:.1e} {array}, metrics {metric_error:.1e} {metric}")
    assert error <= ERROR, array
    assert metric_error <= ERROR, metric
    assert differing_replicas((grads, metrics)) == []
