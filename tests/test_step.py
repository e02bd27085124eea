"""The step on every kind of mesh equals a plain program on one device that knows nothing of meshes.

With dropout, ragged masks, sizes that the context axis does not divide, and context shards of which everything is
masked.
"""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import pytest
from mesh_gradients import (
    BATCH,
    ERROR,
    SEEN,
    Case,
    Shape,
    assert_equal_on_mesh,
    cases,
    configured_meshes,
    make_mesh,
    of_batch,
    of_examples,
    other_meshes,
    place,
)
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.config import Config, ModelConfig, OptimizerConfig
from evotrain.data_config import CoevolutionConfig
from evotrain.model.network import bind, network
from evotrain.parallel.replicas import differing_replicas
from evotrain.state import TrainState, abstract_state, create_state, initial_state
from evotrain.step import eval_step, train_step

RESIDUES, SEQUENCES = 13, 7
CONFIG = Config(
    name="test",
    steps=2,
    batch_size=BATCH,
    eval_every=0,
    model=ModelConfig(
        blocks=2, c_m=16, c_z=16, msa_heads=2, pair_heads=2, c_outer=8, c_triangle=16, transition_factor=2,
        init="lecun",
    ),
    # Between the norms of the examples, so that some are clipped.
    optimizer=OptimizerConfig(clip="none", clip_norm=22.0, warmup_examples=0),
    data=CoevolutionConfig(crop=RESIDUES, msa_clusters=SEQUENCES),
)  # fmt: skip
GLOBAL_NORM = 8.0  # below that of the mean gradient


def config(shape: Shape, clip: str = "none") -> Config:
    changed = Case(shape, clip, 1, "block").of(CONFIG)
    norm = GLOBAL_NORM if clip == "global" else CONFIG.optimizer.clip_norm
    return replace(changed, optimizer=replace(changed.optimizer, clip_norm=norm))


@cache
def params() -> Any:
    """Parameters drawn by numpy, none of them zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.2).astype(np.float32), network(CONFIG)[1])


@cache
def batch() -> dict[str, np.ndarray]:
    """Examples of which half of the residues and half of the sequences are padding, and a tenth of the rest is masked.

    So on every context mesh there is a shard of which everything is masked.
    """
    rng = np.random.default_rng(0)
    msa, residues = (BATCH, 1, SEQUENCES, RESIDUES), (BATCH, RESIDUES)
    seq_mask = rng.random(residues) < 0.9
    seq_mask[:, RESIDUES // 2 :] = False
    msa_mask = (rng.random(msa) < 0.9) & seq_mask[:, None, None]
    msa_mask[:, :, SEQUENCES // 2 :] = False
    floats = {
        "seq_mask": seq_mask,
        "target_feat": rng.normal(size=(*residues, 22)),
        "msa_feat": rng.normal(size=(*msa, 49)),
        "msa_mask": msa_mask,
        "bert_mask": msa_mask & (rng.random(msa) < 0.3),
        "pseudo_beta": 10 * rng.normal(size=(*residues, 3)),
        "pseudo_beta_mask": seq_mask & (rng.random(residues) < 0.9),
        "skipped": np.arange(BATCH) == 3,
    }
    index = np.broadcast_to(np.arange(RESIDUES, dtype=np.int32), residues)
    labels = {"residue_index": index, "true_msa": rng.integers(0, 23, msa, np.int32)}
    return {name: x.astype(np.float32) for name, x in floats.items()} | labels


@cache
def plain() -> tuple[Any, dict[str, np.ndarray]]:
    return of_examples(CONFIG, params(), batch())


def clipped() -> tuple[Any, dict[str, np.ndarray]]:
    """The gradient of the batch, clipped as a whole, and the metrics' means."""
    grads, metrics = of_batch(plain(), batch(), CONFIG)
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(grads)))
    assert norm > GLOBAL_NORM
    return jax.tree.map(lambda g: g * (GLOBAL_NORM / norm), grads), metrics | {"grad_norm": norm}


def to_mesh(shape: Shape) -> tuple[Any, dict[str, jax.Array]]:
    return place(params(), batch(), make_mesh(shape))


@pytest.mark.parametrize(
    "case",
    cases([*configured_meshes(), *other_meshes(6), (1, 1, 1)], daily={(1, 2, 4): None}),
)
def test_the_gradient_is_that_of_a_plain_program(case: Case):
    assert_equal_on_mesh(case, CONFIG, params(), batch(), plain())


def test_every_device_holds_its_part_of_the_state_and_of_the_batch():
    shape = (2, 4, 1)
    state, examples = train_state(shape), to_mesh(shape)[1]
    for tree in (state.params, state.opt_state.mu, state.opt_state.nu, state.ema):
        held = {path: x.addressable_shards[0].data.size / x.size for path, x in jax.tree.leaves_with_path(tree)}
        # Nothing is held whole but the one array of which four devices cannot divide a dimension, a bias of 23 classes.
        whole = [jax.tree_util.keystr(path) for path, share in held.items() if share == 1]
        assert whole == ["['masked_msa']['logits']['bias']"]
        assert {share for share in held.values() if share < 1} == {1 / 4}
    assert {x.addressable_shards[0].data.shape[0] for x in examples.values()} == {BATCH // 8}


@pytest.mark.parametrize(
    "shape",
    [pytest.param((2, 4, 1), marks=pytest.mark.nightly), pytest.param((1, 2, 4), marks=pytest.mark.slow)],
    ids=str,
)
def test_a_state_that_is_made_in_parts_is_that_of_one_device(shape: Shape):
    state = create_state(config(shape), make_mesh(shape))
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, train_state(shape))
    single = jax.jit(partial(initial_state, CONFIG))(jax.random.key(CONFIG.seed))
    jax.tree.map(np.testing.assert_array_equal, state, single)


def train_state(shape: Shape) -> TrainState:
    """A state after three steps, with an EMA of its own."""
    abstract = abstract_state(config(shape), make_mesh(shape))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    ema = jax.tree.map(lambda x: x + 1, params())
    state = zeros._replace(step=np.int32(3), examples=np.int32(SEEN), params=params(), ema=ema)
    return jax.device_put(state, jax.tree.map(lambda x: x.sharding, abstract), may_alias=False)


@cache
def training_program() -> tuple[Shape, jax.stages.Compiled]:
    """A whole step with global clipping, on a mesh of all three axes."""
    shape = (2, 2, 2)
    _, examples = to_mesh(shape)
    step = train_step(config(shape, "global"), make_mesh(shape))
    return shape, step.lower(train_state(shape), examples).compile(QUICK)


def test_a_step_clips_updates_and_averages():
    shape, step = training_program()
    before = jax.device_get(train_state(shape))
    after, metrics = step(train_state(shape), to_mesh(shape)[1])
    assert differing_replicas((after, metrics)) == []

    wanted, wanted_metrics = clipped()
    error, array = largest_error(after.opt_state.mu, jax.tree.map(lambda g: 0.1 * g, wanted))
    print(f"{shape} global: {error:.1e} {array}")
    assert error <= ERROR, array
    # The first step of Adam is the sign of the gradient, but for ε.
    moved = jax.tree.map(lambda g: 1e-3 * g / (np.abs(g) + 1e-6), jax.tree.map(lambda mu: mu / 0.1, after.opt_state.mu))
    for new, old, step_size in zip(*map(jax.tree.leaves, (after.params, before.params, moved)), strict=True):
        np.testing.assert_allclose(new, old - step_size, atol=1e-6)
    for new, old, param in zip(*map(jax.tree.leaves, (after.ema, before.ema, after.params)), strict=True):
        np.testing.assert_allclose(new, 0.999 * old + 0.001 * np.asarray(param), atol=1e-6)
    assert (after.step, after.examples, after.skipped) == (4, SEEN + BATCH, 0)
    own = {"lr": np.float32(1e-3), "skipped": np.float32(0), "examples": np.float32(SEEN + BATCH)}
    error, metric = largest_error(metrics, wanted_metrics | own)
    assert error <= ERROR, metric


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_position_in_the_data():
    shape, step = training_program()
    before = jax.device_get(train_state(shape))
    poisoned = jax.tree.map(np.copy, batch())
    poisoned["target_feat"][5, 0, 0] = np.nan  # one example, on one group of devices
    _, poisoned = place(params(), poisoned, make_mesh(shape))
    state = train_state(shape)
    for skipped in (1, 2):
        state, metrics = step(state, poisoned)
        assert (state.step, state.examples, state.skipped) == (3 + skipped, SEEN + skipped * BATCH, skipped)
        assert metrics["skipped"] == skipped
    for name in ("params", "opt_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))
    state, metrics = step(state, to_mesh(shape)[1])
    assert (state.skipped, metrics["skipped"]) == (0, 0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


def test_evaluation_on_a_mesh_is_that_of_a_plain_program():
    shape = (1, 2, 4)
    graphdef, _ = network(CONFIG)
    judge = jax.jit(jax.vmap(lambda example: bind(graphdef, params()).predict(example)), compiler_options=QUICK)
    placed, examples = to_mesh(shape)
    metrics, maps, residues = (
        eval_step(config(shape), make_mesh(shape)).lower(placed, examples).compile(QUICK)(placed, examples)
    )
    padded = 16
    assert {x.addressable_shards[0].data.shape for x in maps.values()} == {(BATCH // 2, padded // 4, padded)}
    maps = {name: x[:, :RESIDUES, :RESIDUES] for name, x in maps.items()}
    error, array = largest_error((metrics, maps, residues), judge(batch()))
    assert error <= ERROR, array
