"""The step on every kind of mesh equals a plain program on one device that knows nothing of meshes.

With dropout, ragged masks, and context shards of which everything is masked.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.config import Config, MeshConfig, ModelConfig, OptimizerConfig
from evotrain.data_config import CoevolutionConfig
from evotrain.model.network import Choices, bind, network
from evotrain.parallel import fsdp
from evotrain.parallel.mesh import ALL_AXES, batch_sharding
from evotrain.parallel.replicas import differing_replicas
from evotrain.state import TrainState, abstract_state, create_state, initial_state
from evotrain.step import DROPOUT_STREAM, eval_step, gradient_step, train_step

BATCH, RESIDUES, SEQUENCES = 8, 16, 8
SEEN = 24  # examples before this step: the dropout keys depend on it
# Between the norms of the examples, so that some are clipped, and below that of their mean.
CLIP_NORM = {"per_example": 22.0, "global": 8.0, "none": 1.0}
ERROR = 1e-5
MODEL = ModelConfig(
    blocks=2, c_m=16, c_z=16, msa_heads=2, pair_heads=2, c_outer=8, c_triangle=16, transition_factor=2, init="lecun"
)

Shape = tuple[int, int, int]
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")


def config(shape: Shape = (1, 1, 1), clip: str = "none", microbatch: int = 1) -> Config:
    data, parts, context = shape
    return Config(
        name="test",
        steps=2,
        batch_size=BATCH,
        eval_every=0,
        model=MODEL,
        mesh=MeshConfig(data=data, fsdp=parts, context=context, microbatch=microbatch),
        optimizer=OptimizerConfig(clip=clip, clip_norm=CLIP_NORM[clip], warmup_examples=0),
        data=CoevolutionConfig(crop=RESIDUES, msa_clusters=SEQUENCES),
    )


def mesh(shape: Shape) -> Mesh:
    devices = jax.devices()[: np.prod(shape)]
    return jax.make_mesh(shape, ALL_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


@cache
def params() -> Any:
    """Parameters drawn by numpy, none of them zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.2).astype(np.float32), network(config())[1])


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
def of_examples() -> tuple[Any, dict[str, np.ndarray]]:
    """The gradient and the metrics of each example, [8, …], outside of any mesh."""
    graphdef, _ = network(config())
    stream = jax.random.fold_in(jax.random.key(config().seed), DROPOUT_STREAM)
    keys = jax.vmap(partial(jax.random.fold_in, stream))(SEEN + jnp.arange(BATCH))

    def loss(params: Any, example: Any, key: jax.Array) -> Any:
        return bind(graphdef, params).loss(example, key, Choices(jnp.int32(0), jnp.float32(1.0)))

    gradients = jax.jit(jax.vmap(jax.grad(loss, has_aux=True), (None, 0, 0)))
    return jax.device_get(gradients.lower(params(), batch(), keys).compile(QUICK)(params(), batch(), keys))


def norms(grads: Any) -> np.ndarray:
    return np.sqrt(sum(np.square(g, dtype=np.float64).reshape(BATCH, -1).sum(1) for g in jax.tree.leaves(grads)))


def expected(clip: str) -> tuple[Any, dict[str, np.ndarray]]:
    """The gradient of the batch and the metrics' means, from those of the examples."""
    grads, metrics = of_examples()
    if clip == "per_example":
        factors = np.minimum(1.0, CLIP_NORM[clip] / norms(grads))
        assert 0 < np.mean(factors < 1) < 1, norms(grads)
        metrics = metrics | {"example_grad_norm": norms(grads), "clipped": factors < 1}
        grads = jax.tree.map(lambda g: g * factors.reshape(-1, *(1,) * (g.ndim - 1)), grads)
    grads, metrics = jax.tree.map(lambda x: np.mean(x, axis=0), (grads, metrics))
    if clip == "global":
        norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(grads)))
        assert norm > CLIP_NORM[clip]
        metrics |= {"grad_norm": norm}
        grads = jax.tree.map(lambda g: g * (CLIP_NORM[clip] / norm), grads)
    return grads, metrics | {"data/substituted": np.float32(1), "data/skipped": np.float32(1)}


def to_mesh(shape: Shape) -> tuple[Any, dict[str, jax.Array]]:
    """Parameters and batch, on their devices."""
    placed = jax.device_put(params(), fsdp.shardings(params(), mesh(shape)))
    return placed, jax.device_put(batch(), batch_sharding(mesh(shape)))


def collectives(program: jax.stages.Compiled) -> set[str]:
    text = program.as_text()
    return {name for name in COLLECTIVES if f" {name}(" in text or f" {name}-start(" in text}


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def nightly(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.nightly)


@pytest.mark.parametrize(
    ("shape", "clip", "microbatch"),
    [
        nightly((1, 1, 1), "none", 1),
        slow((1, 1, 1), "per_example", 4),
        nightly((1, 1, 1), "none", 4),
        nightly((8, 1, 1), "none", 1),
        slow((8, 1, 1), "per_example", 1),
        slow((1, 8, 1), "none", 1),
        nightly((1, 8, 1), "per_example", 1),
        nightly((2, 4, 1), "none", 1),
        ((2, 4, 1), "per_example", 1),
        slow((1, 1, 8), "none", 1),
        nightly((1, 1, 8), "per_example", 1),
        nightly((2, 1, 4), "none", 2),
        slow((2, 1, 4), "per_example", 2),
        slow((1, 2, 4), "none", 1),
        slow((1, 2, 4), "per_example", 1),
        slow((2, 2, 2), "none", 1),
    ],
    ids=str,
)
def test_the_gradient_is_that_of_a_plain_program(shape: Shape, clip: str, microbatch: int):
    placed, examples = to_mesh(shape)
    lowered = gradient_step(config(shape, clip, microbatch), mesh(shape)).lower(placed, examples, jnp.int32(SEEN))
    program = lowered.compile(QUICK)
    grads, metrics = program(placed, examples, jnp.int32(SEEN))

    wanted_grads, wanted_metrics = expected(clip)
    error, array = largest_error(grads, wanted_grads)
    metric_error, metric = largest_error(metrics, wanted_metrics)
    print(f"{shape} {clip}: gradients {error:.1e} {array}, metrics {metric_error:.1e} {metric}")
    assert error <= ERROR, array
    assert metric_error <= ERROR, metric
    assert differing_replicas((grads, metrics)) == []
    _, parts, context = shape
    moves = {"all-reduce"}  # on one device, too: sums over one member, which XLA leaves in the text
    moves |= {"all-gather", "reduce-scatter"} if parts * context > 1 else set()
    moves |= {"all-to-all"} if context > 1 else set()
    assert collectives(program) == moves


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


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 4, 1), (1, 2, 4)], ids=str)
def test_a_state_that_is_made_in_parts_is_that_of_one_device(shape: Shape):
    state = create_state(config(shape), mesh(shape))
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, train_state(shape))
    single = jax.jit(partial(initial_state, config()))(jax.random.key(config().seed))
    jax.tree.map(np.testing.assert_array_equal, state, single)


def train_state(shape: Shape) -> TrainState:
    """A state after three steps, with an EMA of its own."""
    abstract = abstract_state(config(shape), mesh(shape))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    ema = jax.tree.map(lambda x: x + 1, params())
    state = zeros._replace(step=np.int32(3), examples=np.int32(SEEN), params=params(), ema=ema)
    return jax.device_put(state, jax.tree.map(lambda x: x.sharding, abstract), may_alias=False)


@cache
def training_program() -> tuple[Shape, jax.stages.Compiled]:
    """A whole step with global clipping, on a mesh of all three axes."""
    shape = (2, 2, 2)
    _, examples = to_mesh(shape)
    step = train_step(config(shape, "global"), mesh(shape))
    return shape, step.lower(train_state(shape), examples).compile(QUICK)


def test_a_step_clips_updates_and_averages():
    shape, step = training_program()
    before = jax.device_get(train_state(shape))
    after, metrics = step(train_state(shape), to_mesh(shape)[1])
    assert differing_replicas((after, metrics)) == []

    wanted, wanted_metrics = expected("global")
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
    poisoned = jax.device_put(poisoned, batch_sharding(mesh(shape)))
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
    graphdef, _ = network(config())
    plain = jax.jit(jax.vmap(lambda example: bind(graphdef, params()).predict(example)), compiler_options=QUICK)
    placed, examples = to_mesh(shape)
    found = eval_step(config(shape), mesh(shape)).lower(placed, examples).compile(QUICK)(placed, examples)
    error, array = largest_error(found, plain(batch()))
    assert error <= ERROR, array
    maps = found[1]["contact_probability"]
    assert maps.addressable_shards[0].data.shape == (BATCH // 2, RESIDUES // 4, RESIDUES)
