"""The memory of a step on one device, by formula.

What a step holds from its beginning is counted: parameters, optimizer state, batch. So are gradients, and what blocks
keep for the backward pass. What a block works with at the worst moment, when its forward pass has been computed again
and its backward pass begins, is a sum of arrays of known sizes; how many there are of each was fitted to programs that
the compiler laid out for TPU v5e, v5p and v6e.

Dimensions: S sequences, N residues, C channels, H heads.
"""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from evotrain.config import Config, ModelConfig
from evotrain.data.features.padding import pad
from evotrain.data.sources import HOST_KEYS, Example
from evotrain.data_config import CoevolutionConfig, SyntheticConfig
from evotrain.model.network import network
from evotrain.model.rows import chunk_size
from evotrain.parallel import fsdp
from evotrain.plan.operations import Sizes
from evotrain.plan.program import an_example
from evotrain.plan.result import Memory

FLOAT32 = 4


class Arrays(NamedTuple):
    """How many arrays of each size there are, of what is split only a device's part; or how large each is."""

    msa: float  # S · N · C
    pair: float  # N² · C
    products: float  # N² · C² of the outer product mean, all rows or a chunk
    logits: float  # S · N² · H and N · S² · H of the MSA, N³ · H of the pairs, all of them or the largest chunk
    gathered: float  # N² · C, whole on every device that shares the example
    columns: float  # S · N · C of the outer product mean, likewise

    def dot(self, other: "Arrays") -> float:
        return sum(a * b for a, b in zip(self, other, strict=True))


# By mesh.remat. The transitions' hidden channels are counted as four arrays of their input.
WORKING = {
    "block": Arrays(10.8, 33.3, 2.9, 0.8, 2.0, 2.6),
    "gathered": Arrays(0.8, 42.0, 0.0, 0.8, 0.0, 0.0),
    "none": Arrays(0.0, 4.0, 0.0, 0.0, 0.0, 0.0),
}
# What a block keeps for the backward pass where nothing is computed again.
RESIDUALS = Arrays(32.5, 80.0, 22.8, 0.0, 0.0, 0.0)


def memory_of(config: Config, size_of_example: float | None = None) -> Memory:
    """The memory of one device; `config.mesh` and its remat are resolved.

    `size_of_example` is what `example_bytes` gives, for those who know it already.
    """
    parameters = parameter_bytes(config)
    kept, working = worst_moment(config)
    if size_of_example is None:
        size_of_example = example_bytes(an_example(config), config.mesh.context)
    return Memory(
        parameters=parameters,
        optimizer=2 * parameters,
        average=parameters,
        batch=size_of_example * config.batch_size / (config.mesh.data * config.mesh.fsdp),
        gradients=gradient_bytes(config),
        kept=kept,
        working=working,
    )


def activation_bytes(config: Config) -> int:
    """Of one number of a representation."""
    return np.dtype(jax.numpy.dtype(config.precision.compute)).itemsize


def parameter_counts(config: Config) -> tuple[int, int]:
    """Parameters of stacked blocks, and all others."""
    return _counts(config.model, config.data.source == "synthetic", 1)


def parameter_bytes(config: Config) -> float:
    """Of the parameters, as float32, that one device holds."""
    return FLOAT32 * sum(_counts(config.model, config.data.source == "synthetic", config.mesh.fsdp))


def example_bytes(example: Example, context: int) -> float:
    """Of an example as the `context` devices that share it have it, each of them all."""
    return sum(np.asarray(x).nbytes for name, x in pad(example, context).items() if name not in HOST_KEYS)


def gradient_bytes(config: Config) -> float:
    """Of gradients, their sums over micro-batches, parameters gathered for a step, and weights in the compute dtype."""
    mesh = config.mesh
    stacked, others = parameter_counts(config)
    per_example = config.optimizer.clip == "per_example"
    whole = FLOAT32 * (stacked + others)
    held = whole if per_example else whole / mesh.fsdp
    copies = 1 + (config.batch_size > mesh.data * mesh.fsdp * mesh.microbatch)
    if per_example:
        copies += mesh.microbatch - 1 + (mesh.fsdp > 1)
    casts = activation_bytes(config) * stacked if activation_bytes(config) < FLOAT32 else 0
    return copies * held + casts / (1 if per_example else mesh.fsdp)


def worst_moment(config: Config) -> tuple[float, float]:
    """Bytes that blocks keep for the backward pass, and that a block works with: in the main or the extra MSA stack.

    What the main stack has kept is free again when the extra MSA's turn comes.
    """
    model, sizes, n = config.model, Sizes.of(config), config.mesh.context
    z = sizes.residues**2 * model.c_z / n
    main = _arrays(config, sizes.sequences, model.c_m, model.msa_heads)
    extra = _arrays(config, sizes.extra, model.extra_msa.c_m, model.extra_msa.heads, global_columns=True)
    kept = model.extra_msa.blocks * _kept_by_block(config, extra, sizes.extra, model.extra_msa.heads)
    if model.template.blocks:
        kept += 2 * sizes.templates * sizes.residues**2 * model.template.c_t / n
    if model.recycles:  # what was recycled, and the pair representation before the stacks
        kept += 3 * z
    numbers = config.mesh.microbatch * activation_bytes(config)
    moments = [(kept + model.blocks * _kept_by_block(config, main, sizes.sequences, model.msa_heads), main)]
    if model.extra_msa.blocks:
        moments.append((kept, extra))
    working = WORKING[config.mesh.remat]
    return max(((numbers * held, numbers * working.dot(block)) for held, block in moments), key=sum)


def _kept_by_block(config: Config, block: Arrays, rows: int, heads: int) -> float:
    """Numbers that one block keeps."""
    model, residues = config.model, Sizes.of(config).residues
    match config.mesh.remat:
        case "block":
            return block.msa + block.pair
        case "gathered":
            sent = residues**2 * (heads + 2 * model.c_triangle + 2 * model.pair_heads)
            return 3 * block.msa + 5 * block.pair + sent + rows * residues * model.c_outer
    return RESIDUALS.dot(block)


def _arrays(config: Config, rows: int, c_m: int, heads: int, *, global_columns: bool = False) -> Arrays:
    """The sizes of a block's arrays."""
    model, n, chunk = config.model, config.mesh.context, config.kernels.chunk_rows
    residues = Sizes.of(config).residues

    def at_once(count: float) -> float:
        return chunk_size(round(count), chunk) if chunk and count else count

    logits = [at_once(rows / n) * heads * residues**2]
    logits += [at_once(residues / n) * model.pair_heads * residues**2] * 2
    if not global_columns:
        logits.append(at_once(residues / n) * heads * rows**2)
    return Arrays(
        msa=rows * residues * c_m / n,
        pair=residues**2 * model.c_z / n,
        products=at_once(residues / n) * residues * model.c_outer**2,
        # cuEquivariance's kernels never write them.
        logits=0.0 if config.kernels.attention == "cueq" else max(logits) if chunk else sum(logits),
        gathered=residues**2 * model.c_triangle if n > 1 else 0.0,
        columns=rows * residues * model.c_outer if n > 1 else 0.0,
    )


@cache
def _counts(model: ModelConfig, synthetic: bool, parts: int) -> tuple[int, int]:
    """Parameters of stacked blocks, and all others, that a device holds of `parts` that they are split into."""
    counts = [0, 0]
    for path, x in jax.tree.leaves_with_path(_shapes(model, synthetic)):
        held = x.size // (1 if fsdp.split_dim(path, x.shape, parts) is None else parts)
        counts[0 if fsdp.is_stacked(path) else 1] += held
    return counts[0], counts[1]


@cache
def _shapes(model: ModelConfig, synthetic: bool) -> Any:
    """The parameters of the network as ShapeDtypeStructs."""
    return network(replace(Config(), model=model, data=SyntheticConfig() if synthetic else CoevolutionConfig()))[1]
