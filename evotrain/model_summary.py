"""The numbers of a network on a mesh, from shapes alone: no data, no devices, no compilation.

Modules and arrays with their parameters, the part of each that a device holds under the FSDP rule, and the sizes of the
representations that an example has on a device.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from evotrain.checks import check, resolve_mesh
from evotrain.config import Config
from evotrain.data.features.padding import padded_size
from evotrain.parallel import fsdp, launchers
from evotrain.state import TrainState, initial_state

# What comes first in a pass through the network and through its modules; a tree of parameters is in alphabetical order.
ORDER = {
    "": (
        "embedding", "recycling", "template", "extra_msa", "template_angles", "evoformer", "single", "structure",
        "masked_msa", "distogram", "plddt", "resolved", "aligned_error",
    ),
    "embedding": ("target", "msa", "left", "right", "position"),
    "recycling": ("norm_m", "norm_z", "distances"),
    "template": ("embed", "stack", "norm", "attention"),
    "extra_msa": ("embed", "stack"),
    "template_angles": ("embed", "project"),
    "evoformer": (
        "row_attention", "column_attention", "msa_transition", "outer_product_mean", "triangle_outgoing",
        "triangle_incoming", "attention_starting", "attention_ending", "pair_transition",
    ),
    "structure": ("norm_single", "norm_pair", "project", "fold"),
    "plddt": ("norm", "hidden_1", "hidden_2", "logits"),
}  # fmt: skip
SMALL = 0.01  # share of the parameters below which a module without stacked blocks is not taken apart


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes of something, and of the part of it that one device holds."""

    whole: int
    device: int

    def __add__(self, other: "Held") -> "Held":
        return Held(whole=self.whole + other.whole, device=self.device + other.device)


NOTHING = Held(whole=0, device=0)


@dataclass(frozen=True, kw_only=True)
class Array:
    """An array of parameters."""

    name: str  # dotted
    shape: tuple[int, ...]
    split: int | None  # the dimension that fsdp splits; None: every device holds all of it
    layers: int  # blocks that are stacked in it; 1 where none are
    params: Held
    state: Held  # with the optimizer's and the average's arrays of the same shape

    @property
    def module(self) -> tuple[str, ...]:
        """The names of the modules that it is in, the outermost first."""
        return tuple(name for name in self.name.split(".")[:-1] if name != fsdp.STACKED)


@dataclass(frozen=True, kw_only=True)
class Module:
    """A part of the network."""

    name: str
    depth: int  # 0 of the network's own parts, 1 of parts of them
    layers: int  # blocks that are stacked in it; 1 where none are
    parameters: int
    params: Held
    state: Held


@dataclass(frozen=True, kw_only=True)
class Activation:
    """What examples that pass through the model together have on a device, in the dtype of activations."""

    name: str
    shape: tuple[int, ...]  # of one example
    device_shape: tuple[int, ...]
    device_bytes: int  # of a micro-batch


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A configuration in numbers."""

    config: Config  # with a resolved mesh
    arrays: tuple[Array, ...]  # in the order of the network
    modules: tuple[Module, ...]
    memory: dict[str, Held]  # by the parts of the training state
    activations: tuple[Activation, ...]

    @property
    def parameters(self) -> int:
        return sum(math.prod(array.shape) for array in self.arrays)

    @property
    def state(self) -> Held:
        """The whole training state."""
        return sum(self.memory.values(), NOTHING)

    @property
    def examples(self) -> int:
        """Examples of a step that a device holds; devices along the context axis hold the same ones."""
        return self.config.batch_size // (self.config.mesh.data * self.config.mesh.fsdp)

    @property
    def borders(self) -> int:
        """Bytes on a device of what enters the blocks, which every `mesh.remat` keeps for the backward pass."""
        model, sizes = self.config.model, {part.name: part.device_bytes for part in self.activations}
        extra = model.extra_msa.blocks * (sizes.get("extra MSA", 0) + sizes["pair"])
        return model.blocks * (sizes["MSA"] + sizes["pair"]) + extra

    def evenness(self, held: Held) -> float:
        """What a device holds, relative to an even split over fsdp: 1 at best."""
        return held.device * self.config.mesh.fsdp / held.whole


def summarise(config: Config) -> Summary:
    """The numbers, from shapes alone. A mesh that is given in full may be one that this machine does not have.

    Raises:
      ConfigError: a training run could not have this configuration.
    """
    devices = _devices(config)
    check(config, devices)
    config = replace(config, mesh=resolve_mesh(config.mesh, devices))
    state = jax.eval_shape(lambda: initial_state(config, jax.random.key(0)))
    arrays = _arrays(state, config.mesh.fsdp)
    return Summary(
        config=config,
        arrays=arrays,
        modules=tuple(_modules(arrays)),
        memory=memory(state, config.mesh.fsdp),
        activations=tuple(_activations(config)),
    )


def memory(state: TrainState, parts: int) -> dict[str, Held]:
    """The bytes of the training state by its parts, where fsdp splits it over so many devices."""
    trees = {
        "parameters": state.params,
        "optimizer": (state.opt_state, state.step, state.examples, state.skipped),
        "average (EMA)": state.ema,
    }
    return {name: _held(tree, parts) for name, tree in trees.items()}


def _devices(config: Config) -> int:
    """The devices that the mesh is laid over: those that it names, or else those of the target, or of the machine."""
    mesh, target = config.mesh, config.target
    sizes = (mesh.data, mesh.fsdp, mesh.context)
    if mesh.simulate:
        return mesh.simulate
    if -1 not in sizes:
        return math.prod(sizes)
    if target.chips is not None:
        return target.chips * target.devices_per_chip
    launchers.leave_out_libtpu()
    return jax.device_count()


def _arrays(state: TrainState, parts: int) -> tuple[Array, ...]:
    """The arrays of parameters, each with those of the same shape that the optimizer and the average keep."""
    kept = (state.params, state.opt_state.mu, state.opt_state.nu, state.ema)
    arrays = []
    for same in zip(*map(jax.tree_util.tree_leaves_with_path, kept), strict=True):
        path, x = same[0]
        arrays.append(
            Array(
                name=jax.tree_util.keystr(path, simple=True, separator="."),
                shape=x.shape,
                split=fsdp.split_dim(path, x.shape, parts),
                layers=x.shape[0] if fsdp.is_stacked(path) else 1,
                params=_held([x], parts, path),
                state=_held([copy for _, copy in same], parts, path),
            )
        )
    return tuple(sorted(arrays, key=lambda array: _place(array.module)))


def _held(tree: object, parts: int, prefix: tuple = ()) -> Held:
    """The bytes of the arrays of a tree that stands at the path `prefix` of the state."""
    held = NOTHING
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        size = x.size * x.dtype.itemsize
        split = fsdp.split_dim((*prefix, *path), x.shape, parts)
        held += Held(whole=size, device=size if split is None else size // parts)
    return held


def _place(module: tuple[str, ...]) -> tuple[int, ...]:
    """Where a module comes among the others, by the first two of its names; what ORDER does not know comes last."""
    places = []
    for parent, name in zip(("", module[0]), module, strict=False):
        order = ORDER.get(parent, ())
        places.append(order.index(name) if name in order else len(order))
    return tuple(places)


def _modules(arrays: Sequence[Array]) -> Iterator[Module]:
    """The network's parts, and below each its own where they are worth a row."""
    total = sum(math.prod(array.shape) for array in arrays)
    for name, inside in _grouped(arrays, 0):
        outer = _module(name, 0, inside)
        yield outer
        inner = _grouped([array for array in inside if len(array.module) > 1], 1)
        stacked = any(array.layers > 1 for array in inside)
        if len(inner) > 1 and (stacked or outer.parameters >= SMALL * total):
            yield from (_module(name, 1, members) for name, members in inner)


def _grouped(arrays: Sequence[Array], depth: int) -> list[tuple[str, list[Array]]]:
    """Arrays by the module of that depth that they are in."""
    return [(name, list(group)) for name, group in itertools.groupby(arrays, lambda array: array.module[depth])]


def _module(name: str, depth: int, arrays: Sequence[Array]) -> Module:
    layers = {array.layers for array in arrays}
    return Module(
        name=name,
        depth=depth,
        layers=layers.pop() if len(layers) == 1 else 1,
        parameters=sum(math.prod(array.shape) for array in arrays),
        params=sum((array.params for array in arrays), NOTHING),
        state=sum((array.state for array in arrays), NOTHING),
    )


def _activations(config: Config) -> Iterator[Activation]:
    """The representations of an example, padded to what the context axis divides."""
    model, data, mesh = config.model, config.data, config.mesh
    extra, template = model.extra_msa, model.template
    item = jnp.dtype(config.precision.compute).itemsize

    def part(size: int) -> int:
        return padded_size(size, mesh.context) // mesh.context

    def of(name: str, shape: tuple[int, ...], device_shape: tuple[int, ...]) -> Activation:
        size = math.prod(device_shape) * item * mesh.microbatch
        return Activation(name=name, shape=shape, device_shape=device_shape, device_bytes=size)

    crop, whole = data.crop, padded_size(data.crop, mesh.context)
    rows, extra_rows, templates = data.msa_clusters, data.extra_msa, data.templates
    angles = templates if template.blocks and template.angles else 0
    yield of("MSA", (rows + angles, crop, model.c_m), (part(rows + angles), whole, model.c_m))
    yield of("pair", (crop, crop, model.c_z), (part(crop), whole, model.c_z))
    if extra.blocks:
        yield of("extra MSA", (extra_rows, crop, extra.c_m), (part(extra_rows), whole, extra.c_m))
    if template.blocks:
        yield of("templates", (templates, crop, crop, template.c_t), (templates, part(crop), whole, template.c_t))
