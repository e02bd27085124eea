"""The memory of a step on one device, read from what XLA writes while it compiles.

XLA gives every array of the program a place, an offset in an allocation, and a time, the instructions between which it
lives. Arguments have allocations of their own, everything else shares one. What stands there at the worst moment is
told apart by its shape: an array of the shape of a parameter, of all blocks or of one, is a gradient or a copy of a
weight, one with a leading dimension of a stack's length is kept by its blocks for the backward pass (or has as many
heads).
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from evotrain.config import Config
from evotrain.plan.compile import BUFFERS, HLO, LIVE, PROGRAM
from evotrain.plan.result import Memory

# In the names that JAX gives to the step's arguments.
STATE = {"params": "parameters", "opt_state": "optimizer", "ema": "average"}
ARGUMENT = re.compile(r"parameter\((\d+)\).*op_name=\"args\[(\d)\](?:\.(\w+))?")
ALLOCATION = re.compile(r"allocation \d+: size (\d+),(.*)")
VALUE = re.compile(r" value: <\d+ (\S+)(?: \(phi\))? @\d+> \(size=(\d+),offset=(\d+)\): (\w+)\[([\d,]*)\]")
LIFE = re.compile(r"\s+(\S+?)(?:\{\})?:(\d+)-(\d+)$")

Shape = tuple[int, ...]


class Place(NamedTuple):
    """An array of the program, in the allocation that arrays share."""

    offset: int
    size: int
    shape: Shape  # without dimensions of 1
    start: int
    end: int


def read_memory(directory: Path, config: Config) -> Memory:
    """The memory of the step of `config`, whose compilation wrote to `directory`."""
    model, examples = config.model, config.mesh.microbatch
    # Whatever is scanned: for each of so many trips the backward pass keeps an array of the examples of a micro-batch.
    trips = {model.blocks, model.extra_msa.blocks, model.template.blocks, model.structure.layers, config.data.templates}
    kept_like = [(length, examples) if examples > 1 else (length,) for length in trips - {0, 1}]
    arguments, parameter_shapes = _arguments(_text(directory, HLO))
    shapes = json.loads((directory / PROGRAM).read_text())["parameters"]
    parameter_shapes |= {_ordered(tuple(dim for dim in shape if dim != 1)) for shape in shapes}
    if examples > 1 and config.optimizer.clip == "per_example":  # each has gradients of its own
        parameter_shapes |= {_ordered((examples, *shape)) for shape in parameter_shapes}
    held = dict.fromkeys((*STATE.values(), "batch"), 0)
    shared, places = 0, {}
    for size, kind, values in _allocations(_text(directory, BUFFERS)):
        if number := re.search(r"parameter (\d+)", kind):
            held[arguments.get(int(number[1]), "batch")] += size
        elif "preallocated-temp" in kind and "color" not in kind:  # other colours are memories of the processor's own
            shared, places = size, values
    lives = _lives(_text(directory, LIVE))
    alive = _alive_at_peak(Place(*place, *lives[name]) for name, place in places.items() if name in lives)
    gradients = sum(place.size for place in alive if _ordered(place.shape) in parameter_shapes)
    kept = sum(
        place.size
        for place in alive
        if _ordered(place.shape) not in parameter_shapes
        and len(place.shape) > 2
        and any(place.shape[: len(like)] == like for like in kept_like)
    )
    used = sum(place.size for place in alive)
    return Memory(**held, gradients=gradients, kept=kept, working=used - gradients - kept, gaps=shared - used)


def _text(directory: Path, pattern: str) -> Iterator[str]:
    (path,) = directory.glob(pattern)
    with path.open(errors="replace") as lines:
        yield from lines


def _arguments(lines: Iterable[str]) -> tuple[dict[int, str], set[Shape]]:
    """What each argument holds, by its number, and the shapes of the parameters."""
    kinds, shapes = {}, set()
    for line in lines:
        if found := ARGUMENT.search(line):
            number, position, name = found.groups()
            kinds[int(number)] = STATE.get(name, "batch") if position == "0" else "batch"
            if name == "params":
                shapes.add(_ordered(_shape(re.search(r"\[([\d,]*)\]", line)[1])))
    return kinds, shapes


def _allocations(lines: Iterable[str]) -> Iterator[tuple[int, str, dict[str, tuple[int, int, Shape]]]]:
    """Each allocation's size and kind, and its values' places by name."""
    size, kind, values = 0, "", {}
    for line in lines:
        if found := ALLOCATION.match(line):
            yield size, kind, values
            size, kind, values = int(found[1]), found[2], {}
        elif found := VALUE.match(line):
            values[found[1].removesuffix("{}")] = (int(found[3]), int(found[2]), _shape(found[5]))
    yield size, kind, values


def _lives(lines: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The first and last instruction between which each value lives, by name."""
    return {found[1]: (int(found[2]), int(found[3])) for line in lines if (found := LIFE.match(line))}


def _alive_at_peak(places: Iterable[Place]) -> list[Place]:
    """The places in use when most of the memory is, several names of one array taken together."""
    arrays: list[Place] = []
    for place in sorted(places, key=lambda place: (place.offset, place.start)):
        last = arrays[-1] if arrays else None
        if last is not None and last.offset == place.offset and place.start <= last.end:
            larger = max(last, place, key=lambda one: one.size)
            arrays[-1] = larger._replace(start=last.start, end=max(last.end, place.end))
        else:
            arrays.append(place)
    changes = sorted(
        [(place.start, place.size) for place in arrays] + [(place.end + 1, -place.size) for place in arrays]
    )
    used, most, peak = 0, 0, 0
    for time, change in changes:
        used += change
        if used > most:
            most, peak = used, time
    return [place for place in arrays if place.start <= peak <= place.end]


def _shape(dims: str) -> Shape:
    return tuple(int(dim) for dim in dims.split(",") if dim not in ("", "1"))


def _ordered(shape: Shape) -> Shape:
    """Dimensions in ascending order: XLA may have transposed an array."""
    return tuple(sorted(shape))
