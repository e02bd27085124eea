"""What one device does in a step, by formula: operations, traffic with its memory, and what it receives from others."""

import math
from collections.abc import Iterator

from evotrain.config import Config, ModelConfig
from evotrain.parallel.mesh import CONTEXT, DATA, FSDP
from evotrain.plan.footprint import activation_bytes, parameter_counts
from evotrain.plan.operations import Sizes, step_flops
from evotrain.plan.result import Collective, Work

FLOAT32 = 4
# Forward, a block reads and writes arrays of the size of its representations this many times, and of its logits and
# hidden channels once each; found on programs that were compiled for TPU v5e, v5p and v6e.
REPRESENTATIONS = 14.0
TRAFFIC_FACTOR = 3  # by which the traffic with memory may be wrong: how much of a block stays in VMEM is not known


def work_of(config: Config) -> Work:
    """The work of one device in one step of the mean number of recycles; `config.mesh` and its remat are resolved."""
    collectives = tuple(one for one in (*_of_examples(config), *_of_parameters(config)) if one.count and one.bytes)
    return Work(flops=step_flops(config), memory_bytes=memory_traffic(config), collectives=collectives)


def memory_traffic(config: Config) -> float:
    """Bytes that go to and from the device's memory in a step."""
    model, mesh, sizes = config.model, config.mesh, Sizes.of(config)
    width = activation_bytes(config)
    recycles = model.recycles / 2

    def block(rows: int, c_m: int, heads: int) -> float:
        m, z = rows * sizes.residues * c_m, sizes.residues**2 * model.c_z
        hidden = model.transition_factor * (m + z)
        logits = rows * heads * sizes.residues**2 + 2 * model.pair_heads * sizes.residues**3
        if rows == sizes.sequences:  # the extra MSA's attention to columns is global
            logits += heads * sizes.residues * rows**2
        if config.kernels.attention == "cueq":
            logits = 0
        product = sizes.residues**2 * model.c_outer**2
        return (REPRESENTATIONS * (m + z) + 2 * (hidden + logits + product)) * width / sizes.context

    forward = model.blocks * block(sizes.sequences, model.c_m, model.msa_heads)
    forward += model.extra_msa.blocks * block(sizes.extra, model.extra_msa.c_m, model.extra_msa.heads)
    passes = recycles + 3 + (mesh.remat != "none")
    parameters = sum(parameter_counts(config)) * FLOAT32
    share = config.batch_size / (mesh.data * mesh.fsdp)
    # Each pass over a micro-batch reads the parameters, and the last writes gradients, of each example if those are
    # clipped; the update reads and writes both, the moments and the average.
    gradients = parameters / (1 if config.optimizer.clip == "per_example" else mesh.microbatch)
    read = (passes - 1) * parameters / mesh.microbatch
    return share * (passes * forward + read + gradients) + 8 * parameters / mesh.fsdp


def _of_examples(config: Config) -> Iterator[Collective]:
    """What the devices that share an example send to each other."""
    model, n, sizes = config.model, config.mesh.context, Sizes.of(config)
    if n == 1:
        return
    share = config.batch_size / (config.mesh.data * config.mesh.fsdp)
    width, residues = activation_bytes(config), sizes.residues
    # Forward in the passes before, in the last one, and where a block is computed again; backward, each as often as
    # forward: what was gathered is reduced and scattered.
    passes = model.recycles / 2 + 1
    forward = passes + (config.mesh.remat == "block")

    def moved(count: float, elements: float, forward: float = forward) -> Iterator[Collective]:
        """Operands that are gathered, and their gradients."""
        size = elements * width * (n - 1) / n
        if count:
            yield _activations("all-gather", share * count * forward, size)
            yield _activations("reduce-scatter", share * count, size)

    def switched(count: float, elements: float) -> Iterator[Collective]:
        if count:
            yield _activations("all-to-all", share * count * (forward + 1), elements * width * (n - 1) / n**2)

    z, templates = residues**2 * model.c_z, model.template.blocks * sizes.templates
    for blocks, rows, c_m, heads in _stacks(model, sizes):
        yield from switched(2 * blocks, rows * residues * c_m)
        yield from switched(4 * blocks, z)
        yield from moved(blocks, residues**2 * heads)
        yield from moved(blocks, rows * residues * model.c_outer)
        yield from moved(2 * blocks, residues**2 * model.c_triangle)
        yield from moved(2 * blocks, residues**2 * model.pair_heads)
    z_t = residues**2 * model.template.c_t
    yield from switched(4 * templates, z_t)
    yield from moved(2 * templates, z_t)
    yield from moved(2 * templates, residues**2 * model.template.heads)
    if model.structure.layers:
        yield from moved(1, z, passes)


def _stacks(model: ModelConfig, sizes: Sizes) -> list[tuple[int, int, int, int]]:
    """Blocks, rows, channels and heads of the stacks over sequences."""
    extra = model.extra_msa
    return [
        (model.blocks, sizes.sequences, model.c_m, model.msa_heads),
        (extra.blocks, sizes.extra, extra.c_m, extra.heads),
    ]


def _of_parameters(config: Config) -> Iterator[Collective]:
    """Parameters that are gathered for use, and gradients that are summed."""
    mesh, per_example = config.mesh, config.optimizer.clip == "per_example"
    stacked, others = parameter_counts(config)
    whole = FLOAT32 * (stacked + others)
    examples = config.batch_size / (mesh.data * mesh.fsdp)
    micro_batches = examples / mesh.microbatch
    part = (mesh.fsdp - 1) / mesh.fsdp
    if per_example:
        gathered, scattered = whole, whole
    else:  # block by block, in each pass over each micro-batch, in the dtype of the computation
        passes = config.model.recycles / 2 + 1 + (mesh.remat != "none")
        gathered = micro_batches * (passes * activation_bytes(config) * stacked + FLOAT32 * others)
        scattered = micro_batches * whole
    yield Collective(kind="all-gather", axes=(FSDP,), count=1, bytes=gathered * part, purpose="parameters")
    yield Collective(kind="reduce-scatter", axes=(FSDP,), count=1, bytes=scattered * part, purpose="gradients")

    def summed(axes: tuple[str, ...], count: float, size: float) -> Iterator[Collective]:
        axes = tuple(axis for axis in axes if getattr(mesh, axis) > 1)
        devices = math.prod(getattr(mesh, axis) for axis in axes)
        if axes:
            received = 2 * size * (devices - 1) / devices
            yield Collective(kind="all-reduce", axes=axes, count=count, bytes=received, purpose="gradients")

    if per_example:  # whose norm takes all of its gradient
        yield from summed((CONTEXT,), examples, whole)
        yield from summed((DATA,), 1, whole / mesh.fsdp)
    else:
        yield from summed((DATA, CONTEXT), 1, whole / mesh.fsdp)


def _activations(kind: str, count: float, size: float) -> Collective:
    return Collective(kind=kind, axes=(CONTEXT,), count=count, bytes=size, purpose="activations")
