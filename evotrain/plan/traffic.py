"""What a compiled step moves: between devices, by its collectives, each counted once, and in a device's memory."""

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from evotrain.config import Config
from evotrain.parallel.mesh import ALL_AXES
from evotrain.plan.hbm import hbm_bytes
from evotrain.plan.hlo import Computation, Frame, Instruction, Module, logical_bytes, multiplicities
from evotrain.plan.result import Collective, Work

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
STARTS = {kind + end: kind for kind in KINDS for end in ("", "-start")}  # what ends in -done is the same collective

# By what file of this package a collective is called, see `_purpose` and `_source`.
PARALLEL, FSDP = "evotrain/parallel/", "evotrain/parallel/fsdp.py"

_PARTS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_GRID = re.compile(r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_PAIR = re.compile(r"\{(\d+),(\d+)\}")


def work_of_module(module: Module, flops: float, config: Config) -> Work:
    """The work of one device in one step of the mean number of recycles; `config.mesh` is resolved."""
    axes = {axis: getattr(config.mesh, axis) for axis in ALL_AXES}
    open_trips = config.model.recycles / 2  # of the only loop whose number of trips is drawn when the step runs
    moved = collectives(module, axes, open_trips)
    return Work(flops=flops, memory_bytes=hbm_bytes(module, open_trips), collectives=tuple(moved))


def collectives(module: Module, axes: Mapping[str, int], open_trips: float) -> list[Collective]:
    """The collectives of a module that runs once, in the order of its text.

    `axes` are the sizes of the mesh axes, outermost first: XLA's numbers of the devices count along the last one first.
    `open_trips` are the iterations of a loop whose number is not in the text. One that connects a device only to itself
    is left out.

    The TPU compiler spreads an asynchronous collective over the fusions that it overlaps with, in each of which the
    same instruction stands again: those that stand in one computation with one `chain_id` are one collective.
    """
    times = multiplicities(module, open_trips)
    found, chains = [], set()
    for computation in module.computations.values():
        for instruction in computation.instructions.values():
            if instruction.opcode not in STARTS or not times[computation.name]:
                continue
            if chain := instruction.attribute(r'chain_id="(\d+)"'):
                chain = module.homes.get(computation.name, computation.name), chain
                if chain in chains:
                    continue
                chains.add(chain)
            devices, spanned = _connected(instruction, axes)
            if spanned:
                kind = _kind(module, computation, instruction)
                stack = list(_stack(module, instruction))
                found.append(
                    Collective(
                        kind=kind,
                        axes=spanned,
                        count=times[computation.name],
                        bytes=_received(kind, _operand_bytes(computation, instruction), devices),
                        purpose=_purpose(kind, stack),
                        source=_source(stack),
                    )
                )
    return found


def _kind(module: Module, computation: Computation, instruction: Instruction) -> str:
    """What a collective does: an all-reduce in a fusion that keeps one slice of the sum is a reduce-scatter."""
    kind = STARTS[instruction.opcode]
    if kind == "all-reduce" and computation.name in module.homes:
        users = computation.users[instruction.name]
        while len(users) == 1 and users[0].opcode in ("bitcast", "reshape"):
            users = computation.users[users[0].name]
        if users and all(user.opcode == "dynamic-slice" for user in users):
            return "reduce-scatter"
    return kind


def _operand_bytes(computation: Computation, instruction: Instruction) -> float:
    operands = (computation.instructions[name] for name in instruction.operands)
    return sum(logical_bytes(shape) for operand in operands for shape in operand.shapes)


def _received(kind: str, size: float, devices: int) -> float:
    """The bytes that each of `devices` receives if it holds `size` before and no byte is sent in vain."""
    if kind == "all-gather":
        return size * (devices - 1)
    if kind == "collective-permute":
        return size
    return size * (devices - 1) / devices * (2 if kind == "all-reduce" else 1)


def _connected(instruction: Instruction, axes: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
    """How many devices a collective connects with each other, and the mesh axes along which they differ."""
    if STARTS[instruction.opcode] == "collective-permute":
        pairs = _PAIR.findall(instruction.attribute(r"source_target_pairs=(\S*)") or "")
        groups = [[int(device) for device in pair] for pair in pairs]
    else:
        groups = [_group(instruction, math.prod(axes.values()))]
    differ: set[str] = set()
    for group in groups:
        positions = np.unravel_index(group, tuple(axes.values()))
        differ |= {axis for axis, place in zip(axes, positions, strict=True) if np.ptp(place)}
    return max(len(group) for group in groups), tuple(axis for axis in axes if axis in differ)


def _group(instruction: Instruction, devices: int) -> list[int]:
    """The first of the groups; the others are like it."""
    if parts := _PARTS.search(instruction.attributes):
        return [int(device) for device in parts[1].split(",")]
    if grid := _GRID.search(instruction.attributes):
        # Devices are counted in a grid, transposed, and cut into groups.
        sides = [int(side) for side in grid[2].split(",")]
        order = [int(dim) for dim in grid[3].split(",")] if grid[3] else range(len(sides))
        return np.arange(math.prod(sides)).reshape(sides).transpose(order).reshape(-1)[: int(grid[1])].tolist()
    assert "replica_groups={}" in instruction.attributes, f"unknown groups of devices: {instruction.attributes[:200]}"
    return list(range(devices))


def _stack(module: Module, instruction: Instruction) -> Iterator[Frame]:
    """Where the program asks for a collective. If the compiler has rewritten it, what it sums with still tells."""
    yield from module.stack(instruction)
    if "stack_frame_id" not in instruction.attributes:
        reducer = module.computations.get(instruction.attribute(r"to_apply=%([\w.-]+)") or "")
        if reducer is not None and reducer.root is not None:
            yield from module.stack(reducer.root)


def _purpose(kind: str, stack: list[Frame]) -> str:
    """Whose values a collective moves; `parallel/fsdp.py` is what gathers parameters and reduces their gradients."""
    if any(frame.file.endswith(FSDP) for frame in stack):
        return "parameters" if kind == "all-gather" else "gradients"
    return "activations"


def _source(stack: list[Frame]) -> str | None:
    """The innermost function that asks for it, outside of `parallel/`."""
    frame = next((frame for frame in stack if PARALLEL not in frame.file), None)
    return frame and f"{frame.function}, {frame.file.rpartition('/')[2]}:{frame.line}"
