"""The gradient of a batch on a mesh against that of a plain program on one device, which knows nothing of meshes."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from omegaconf import OmegaConf
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.checks import resolve_mesh
from evotrain.config import Config, MeshConfig
from evotrain.data.pipeline import to_devices
from evotrain.errors import ConfigError
from evotrain.model.network import bind, draw_choices, network
from evotrain.parallel import fsdp
from evotrain.parallel.mesh import ALL_AXES, batch_sharding
from evotrain.parallel.replicas import differing_replicas
from evotrain.step import CHOICES_STREAM, DROPOUT_STREAM, gradient_step

BATCH = 16
SEEN = 24  # examples before this step: the dropout keys depend on it
ERROR = 1e-5
CLIPS, REMATS = ("none", "per_example"), ("block", "none", "gathered")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")

Shape = tuple[int, int, int]  # data, fsdp, context
Examples = dict[str, np.ndarray]


class Case(NamedTuple):
    """A mesh, and how the step is made there."""

    shape: Shape
    clip: str
    microbatch: int
    remat: str

    def of(self, config: Config) -> Config:
        data, parts, context = self.shape
        return replace(
            config,
            mesh=MeshConfig(data=data, fsdp=parts, context=context, microbatch=self.microbatch, remat=self.remat),
            optimizer=replace(config.optimizer, clip=self.clip),
        )


def configured_meshes() -> list[Shape]:
    """What the files of conf/mesh make of 8 and of 16 devices, as far as it fits."""
    files = sorted((Path(__file__).parent.parent / "conf" / "mesh").glob("*.yaml"))
    shapes = []
    for devices in (8, 16):
        for file in files:
            try:
                mesh = resolve_mesh(MeshConfig(**OmegaConf.load(file)), devices)
            except ConfigError:
                continue
            shapes.append((mesh.data, mesh.fsdp, mesh.context))
    return [shape for shape in dict.fromkeys(shapes) if BATCH % (shape[0] * shape[1]) == 0]


def other_meshes(count: int) -> list[Shape]:
    """A random sample of the other products of three axes that make 8, 12 or 16."""
    every = [tuple(n + 1 for n in shape) for shape in np.ndindex(16, 16, 16)]
    products = [shape for shape in every if np.prod(shape) in (8, 12, 16) and BATCH % (shape[0] * shape[1]) == 0]
    others = [shape for shape in products if shape not in configured_meshes()]
    return [others[i] for i in np.random.default_rng(0).choice(len(others), count, replace=False)]


def cases(shapes: list[Shape], *, daily: dict[Shape, pytest.MarkDecorator | None]) -> list[Any]:
    """A case for each mesh, with clipping, micro-batches and remat in turn; nightly but for the meshes of `daily`."""

    def case(number: int, shape: Shape) -> Any:
        share = BATCH // (shape[0] * shape[1])
        microbatch = 2 if share % 2 == 0 and number % 4 > 1 else 1
        chosen = Case(shape, CLIPS[number % len(CLIPS)], microbatch, REMATS[number % len(REMATS)])
        mark = daily.get(shape, pytest.mark.nightly)
        return pytest.param(chosen, marks=() if mark is None else mark, id=" ".join(map(str, chosen)))

    return [case(number, shape) for number, shape in enumerate(shapes)]


def make_mesh(shape: Shape) -> Mesh:
    devices = jax.devices()[: np.prod(shape)]
    return jax.make_mesh(shape, ALL_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def place(params: Any, batch: Examples, mesh: Mesh) -> tuple[Any, dict[str, jax.Array]]:
    """Parameters and batch on their devices, the batch padded for them."""
    placed = jax.device_put(params, fsdp.shardings(params, mesh))
    return placed, to_devices(batch, list(range(BATCH)), BATCH, batch_sharding(mesh))


def of_examples(config: Config, params: Any, batch: Examples) -> tuple[Any, Examples]:
    """The gradient and the metrics of each example, [B, …], outside of any mesh."""
    graphdef, _ = network(replace(config, mesh=MeshConfig(remat="none")))
    stream, choice = (
        jax.random.fold_in(jax.random.key(config.seed), stream) for stream in (DROPOUT_STREAM, CHOICES_STREAM)
    )
    choices = draw_choices(config.model, jax.random.fold_in(choice, SEEN))
    assert (choices.recycles > 0) == (config.model.recycles > 0)
    keys = jax.vmap(partial(jax.random.fold_in, stream))(SEEN + jnp.arange(BATCH))

    def loss(params: Any, example: Any, key: jax.Array) -> Any:
        return bind(graphdef, params).loss(example, key, choices)

    gradients = jax.jit(jax.vmap(jax.grad(loss, has_aux=True), (None, 0, 0)), compiler_options=QUICK)
    return jax.device_get(gradients(params, batch, keys))


def norms(grads: Any) -> np.ndarray:
    return np.sqrt(sum(np.square(g, dtype=np.float64).reshape(BATCH, -1).sum(1) for g in jax.tree.leaves(grads)))


def of_batch(found: tuple[Any, Examples], batch: Examples, config: Config) -> tuple[Any, Examples]:
    """The gradient of the batch, from those of its examples clipped if so configured, and the metrics' means."""
    grads, metrics = found
    if config.optimizer.clip == "per_example":
        factors = np.minimum(1.0, config.optimizer.clip_norm / norms(grads))
        assert 0 < np.mean(factors < 1) < 1, norms(grads)
        metrics = metrics | {"example_grad_norm": norms(grads), "clipped": factors < 1}
        grads = jax.tree.map(lambda g: g * factors.reshape(-1, *(1,) * (g.ndim - 1)), grads)
    grads, metrics = jax.tree.map(lambda x: np.mean(x, axis=0), (grads, metrics))
    skipped = batch["skipped"]
    return grads, metrics | {"data/substituted": np.float32((skipped > 0).sum()), "data/skipped": skipped.sum()}


def assert_equal_on_mesh(case: Case, config: Config, params: Any, batch: Examples, plain: tuple[Any, Examples]) -> None:
    """Asserts that the step finds the gradient and the metrics of `plain`, and prints the largest errors."""
    config, mesh = case.of(config), make_mesh(case.shape)
    placed, examples = place(params, batch, mesh)
    program = gradient_step(config, mesh).lower(placed, examples, jnp.int32(SEEN)).compile(QUICK)
    grads, metrics = program(placed, examples, jnp.int32(SEEN))

    wanted_grads, wanted_metrics = of_batch(plain, batch, config)
    error, array = largest_error(grads, wanted_grads)
    metric_error, metric = largest_error(metrics, wanted_metrics)
    shape = " × ".join(map(str, case.shape))
    chosen = f"{case.clip:11s} micro-batches of {case.microbatch}, remat {case.remat:8s}"
    print(f"{shape:11s} {chosen} gradients {error:.1e} {array}, metrics {metric_error:.1e} {metric}")
    assert error <= ERROR, array
    assert metric_error <= ERROR, metric
    assert differing_replicas((grads, metrics)) == []
    _, parts, context = case.shape
    moves = {"all-reduce"}  # on one device, too: sums over one member, which XLA leaves in the text
    moves |= {"all-gather", "reduce-scatter"} if parts * context > 1 else set()
    moves |= {"all-to-all"} if context > 1 else set()
    assert collectives(program) == moves


def collectives(program: jax.stages.Compiled) -> set[str]:
    text = program.as_text()
    return {name for name in COLLECTIVES if f" {name}(" in text or f" {name}-start(" in text}
