"""Floating-point operations of a step, from the sizes of the model: what `flops.count_flops` finds, in no time.

Every matrix product of the network stands here once, as 2 · rows · columns · summed. They are those of one example on
one of the devices that share it.

Dimensions: S sequences, E sequences of the extra MSA, N residues, T templates, C channels, H heads, D channels of a
head.
"""

from collections.abc import Iterator
from typing import NamedTuple

from evotrain.config import Config, ModelConfig
from evotrain.data.features.padding import padded_size

ATOM_ANGLES, TEMPLATE_ANGLES, RELATIVE = 14, 57, 65
MSA_FEATURES, TARGET_FEATURES, EXTRA_FEATURES, PAIR_FEATURES = 49, 22, 25, 88
MSA_CLASSES, DISTANCE_BINS, RECYCLED_BINS, ERROR_BINS = 23, 64, 15, 64


class Module(NamedTuple):
    """The operations of a part of the network, forward."""

    forward: float
    output: float = 0.0  # of these its last product, whose result the backward pass of this part does not need
    in_chunks: bool = False  # of rows, if so configured; they are computed again in the backward pass
    switched: bool = False  # what it updates goes to other devices next


class Sizes(NamedTuple):
    """An example as devices share it: each of the dimensions that are split is a multiple of their number."""

    context: int
    sequences: int  # with the rows that are made of templates
    extra: int
    residues: int
    templates: int

    @classmethod
    def of(cls, config: Config) -> "Sizes":
        data, context = config.data, config.mesh.context
        rows = data.templates if config.model.template.blocks and config.model.template.angles else 0
        sequences, extra, residues = (
            padded_size(size, context) for size in (data.msa_clusters + rows, data.extra_msa, data.crop)
        )
        return cls(context, sequences, extra, residues, data.templates)


def step_flops(config: Config) -> float:
    """Operations of one device in one step of the mean number of recycles; `config.mesh` is resolved."""
    model, mesh, sizes = config.model, config.mesh, Sizes.of(config)
    chunked, recycles = config.kernels.chunk_rows is not None, model.recycles / 2

    def trained(modules: list[Module], *, again: float = 0.0) -> float:
        """Forward, backward, and again what a block computes again; `again` more times all of it."""
        return sum(
            module.forward * (3 + again) + recomputed(module, mesh.remat, chunked, last=module is modules[-1])
            for module in modules
        )

    main, extra, template = main_block(model, sizes), extra_block(model, sizes), template_block(model, sizes)
    per_template = model.template.blocks * sizes.templates
    remat = mesh.remat != "none"
    total = model.blocks * trained(main) + model.extra_msa.blocks * trained(extra)
    total += per_template * trained(template, again=float(remat))
    total += (3 + remat) * structure_flops(model, sizes)
    inputs, between, heads = input_flops(model, sizes), between_flops(model, sizes), head_flops(model, sizes)
    total += 2 * inputs + 3 * (between + heads)

    frozen = (
        model.blocks * _forward(main) + model.extra_msa.blocks * _forward(extra) + per_template * _forward(template)
    )
    frozen += structure_flops(model, sizes) + inputs + between
    return config.batch_size / (mesh.data * mesh.fsdp) * (total + recycles * frozen)


def recomputed(module: Module, remat: str, chunked: bool, *, last: bool) -> float:
    """What the backward pass computes of a module before its own work."""
    in_chunks = chunked and module.in_chunks
    inner = module.forward - module.output if in_chunks else 0.0
    if remat == "none":
        return inner
    unneeded = last or (remat == "gathered" and module.switched)
    if in_chunks and unneeded:
        return inner
    return inner + module.forward - (module.output if unneeded else 0.0)


def main_block(model: ModelConfig, sizes: Sizes) -> list[Module]:
    """The modules of an Evoformer block, in their order."""
    n, rows, residues = sizes.context, sizes.sequences, sizes.residues
    dim = model.msa_head_dim or model.c_m // model.msa_heads
    column = attention(n, residues, rows, model.c_m, model.msa_heads, dim)
    return list(_evoformer(model, sizes, rows, model.c_m, model.msa_heads, dim, column))


def extra_block(model: ModelConfig, sizes: Sizes) -> list[Module]:
    """The modules of a block of the extra MSA stack."""
    n, rows, residues, c_m, heads = (
        sizes.context,
        sizes.extra,
        sizes.residues,
        model.extra_msa.c_m,
        model.extra_msa.heads,
    )
    dim = c_m // heads
    projections = 2 * rows * residues * c_m * (2 * dim + 2 * heads * dim) + 2 * residues * c_m * heads * dim
    averages = 2 * rows * residues * (c_m + 2 * heads * dim)
    column = Module((projections + averages) / n, output=2 * rows * residues * c_m * heads * dim / n)
    return list(_evoformer(model, sizes, rows, c_m, heads, dim, column))


def template_block(model: ModelConfig, sizes: Sizes) -> list[Module]:
    """The modules of a block of the template pair stack, for one template."""
    channels, heads = model.template.c_t, model.template.heads
    *triangles, transition = _pair_modules(
        sizes, channels, channels, heads, channels // heads, model.template.transition_factor
    )
    return [*triangles, transition]


def _evoformer(
    model: ModelConfig, sizes: Sizes, rows: int, c_m: int, heads: int, dim: int, column: Module
) -> Iterator[Module]:
    n, residues, c_z, c = sizes.context, sizes.residues, model.c_z, model.c_outer
    row = attention(n, rows, residues, c_m, heads, dim)
    yield row._replace(switched=True)
    yield Module(2 * residues**2 * c_z * heads / n)  # its pair bias
    yield column
    yield transition(n, rows * residues, c_m, model.transition_factor)
    yield Module((4 * rows * residues * c_m * c + 2 * residues**2 * rows) / n)
    output = 2 * residues**2 * c * c * c_z / n
    yield Module(2 * residues**2 * rows * c * c / n + output, output=output, in_chunks=True)
    dim = model.pair_head_dim or c_z // model.pair_heads
    yield from _pair_modules(sizes, c_z, model.c_triangle, model.pair_heads, dim, model.transition_factor)


def _pair_modules(sizes: Sizes, c_z: int, c: int, heads: int, dim: int, factor: int) -> Iterator[Module]:
    n, residues = sizes.context, sizes.residues
    output = 2 * residues**2 * c * c_z / n
    gates = 2 * residues**2 * c_z * (4 * c + c_z) / n
    triangle = Module(gates + 2 * residues**3 * c / n + output, output=output, switched=True)
    yield from (triangle, triangle)
    around = attention(n, residues, residues, c_z, heads, dim)._replace(switched=True)
    bias = Module(2 * residues**2 * c_z * heads / n)
    yield from (around, bias, around, bias)
    yield transition(n, residues**2, c_z, factor)


def attention(devices: int, rows: int, positions: int, channels: int, heads: int, dim: int) -> Module:
    """Gated attention within each of `rows` rows of `positions`: four projections, logits, averages, output."""
    projection = 2 * rows * positions * channels * heads * dim / devices
    inner = 4 * rows * positions**2 * heads * dim / devices
    return Module(5 * projection + inner, output=projection, in_chunks=True)


def transition(devices: int, positions: int, channels: int, factor: int) -> Module:
    """The two products of a transition."""
    product = 2 * positions * channels**2 * factor / devices
    return Module(2 * product, output=product)


def structure_flops(model: ModelConfig, sizes: Sizes) -> float:
    """The structure module forward; each of the devices that share the example computes all of it."""
    part, residues, c_z = model.structure, sizes.residues, model.c_z
    if not part.layers:
        return 0.0
    heads, dim, c_s = part.heads, part.scalar_dim, part.c_s
    points = part.query_points + part.value_points
    projections = c_s * heads * (3 * dim + 3 * part.query_points + 3 * points)
    features = heads * (dim + 4 * part.value_points + c_z)
    hidden = part.c_sidechain
    single = projections + features * c_s + 3 * c_s**2 + 6 * c_s
    single += 2 * c_s * hidden + 4 * hidden**2 + ATOM_ANGLES * hidden
    pairs = heads * (2 * dim + 3 * part.value_points + c_z) + c_z * heads
    return part.layers * (2 * residues * single + 2 * residues**2 * pairs) + 2 * residues * c_s**2


def input_flops(model: ModelConfig, sizes: Sizes) -> float:
    """The products whose inputs are features, which have no gradient."""
    n, residues = sizes.context, sizes.residues
    total = 2 * sizes.sequences * residues * MSA_FEATURES * model.c_m / n
    total += 2 * residues * TARGET_FEATURES * (model.c_m + 2 * model.c_z / n)
    total += 2 * residues**2 * RELATIVE * model.c_z / n
    if model.extra_msa.blocks:
        total += 2 * sizes.extra * residues * EXTRA_FEATURES * model.extra_msa.c_m / n
    if model.template.blocks:
        total += 2 * sizes.templates * residues**2 * PAIR_FEATURES * model.template.c_t / n
    if model.recycles:
        total += 2 * residues**2 * RECYCLED_BINS * model.c_z / n
    return total


def between_flops(model: ModelConfig, sizes: Sizes) -> float:
    """What stands between the stacks: attention to templates, their angles, the single representation."""
    n, residues, total = sizes.context, sizes.residues, 0.0
    if model.template.blocks:
        c_t, c_z = model.template.c_t, model.c_z
        total += 2 * residues**2 * (2 * c_z * c_t + 2 * sizes.templates * c_t * c_t) / n
        if model.template.angles:
            total += 2 * sizes.templates * residues * (TEMPLATE_ANGLES * model.c_m + model.c_m**2)
    if model.structure.layers:
        total += 2 * residues * model.c_m * model.structure.c_s
    return total


def head_flops(model: ModelConfig, sizes: Sizes) -> float:
    """The heads that the last pass alone has."""
    n, residues, part = sizes.context, sizes.residues, model.structure
    total = 2 * (sizes.sequences * residues * model.c_m * MSA_CLASSES + residues**2 * model.c_z * DISTANCE_BINS) / n
    if part.layers:
        total += 2 * residues * (part.c_s * part.c_confidence + part.c_confidence**2)
        total += 2 * residues**2 * model.c_z * ERROR_BINS / n if part.aligned_error else 0.0
    return total


def _forward(modules: list[Module]) -> float:
    return sum(module.forward for module in modules)
