"""The step of the whole network, all of its parts and two recycles, on meshes equals a plain program on one device.

The context axis divides no size but that of the extra MSA by 2, and on many meshes a shard of every second example is
all padding.
"""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from mesh_gradients import (
    BATCH,
    ERROR,
    Case,
    assert_equal_on_mesh,
    cases,
    configured_meshes,
    make_mesh,
    of_examples,
    other_meshes,
    place,
)
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.config import (
    Config,
    ExtraMSAConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    StructureConfig,
    TemplateConfig,
)
from evotrain.data.features.example import example, example_shape
from evotrain.data.features.padding import pad
from evotrain.data.pipeline import stack
from evotrain.data.protein import Protein, Templates
from evotrain.data_config import CoevolutionConfig
from evotrain.model.network import bind, network
from evotrain.step import eval_step

RESIDUES = 7

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
    # Between the norms of the examples, so that some are clipped.
    optimizer=OptimizerConfig(clip="none", clip_norm=20.0, warmup_examples=0),
    data=CoevolutionConfig(crop=RESIDUES, msa_clusters=6, extra_msa=6, templates=3),
)  # fmt: skip


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
    """Examples that fill their crop, and as many of which half is padding.

    Where a prediction is too large or too small all around a side chain, both names of its atoms suit it equally and
    rounding chooses, as the published rule has it; the seeds are such that it does not happen.
    """
    shape = example_shape(CONFIG)
    examples = [
        example(protein(seed, residues), np.random.default_rng(seed), shape) | {"skipped": np.float32(0)}
        for seed, residues in enumerate((RESIDUES, RESIDUES // 2) * (BATCH // 2), start=2)
    ]
    return stack(examples)


@cache
def plain() -> tuple[Any, dict[str, np.ndarray]]:
    return of_examples(CONFIG, params(), batch())


@pytest.mark.parametrize("case", cases([*configured_meshes(), *other_meshes(3)], daily={(1, 4, 4): pytest.mark.slow}))
def test_the_gradient_is_that_of_a_plain_program(case: Case):
    assert_equal_on_mesh(case, CONFIG, params(), batch(), plain())


@cache
def judge() -> Any:
    """What evaluation finds, outside of any mesh."""
    graphdef, _ = network(CONFIG)
    return jax.jit(jax.vmap(lambda example: bind(graphdef, params()).predict(example)), compiler_options=QUICK)


def assert_equal_without_padding(found: Any, expected: Any) -> None:
    """Asserts that both have the same metrics, and the same predictions for the residues that are there."""
    there = batch()["seq_mask"]

    def without_padding(judged: Any) -> Any:
        metrics, maps, residues = jax.device_get(judged)
        pairs = there[:, :, None] * there[:, None]
        maps = {name: x[:, :RESIDUES, :RESIDUES] * pairs for name, x in maps.items()}

        def chain(x: np.ndarray) -> np.ndarray:
            return x[:, :RESIDUES] * there.reshape(*there.shape, *(1,) * (x.ndim - 2)) if x.ndim > 1 else x

        return metrics, maps, jax.tree.map(chain, residues)

    error, array = largest_error(without_padding(found), without_padding(expected))
    print(f"{error:.1e} {array}")
    assert error <= ERROR, array


@pytest.mark.slow
def test_padding_changes_no_metric_and_no_prediction():
    assert_equal_without_padding(judge()(pad(batch(), 5)), judge()(batch()))


@pytest.mark.nightly
def test_evaluation_on_a_mesh_is_that_of_a_plain_program():
    case = Case((2, 2, 4), "none", 1, "block")
    mesh = make_mesh(case.shape)
    placed, examples = place(params(), batch(), mesh)
    found = eval_step(case.of(CONFIG), mesh).lower(placed, examples).compile(QUICK)(placed, examples)
    assert_equal_without_padding(found, judge()(batch()))
