"""Reads the text of an optimized HLO module, as XLA's TPU compiler dumps it.

A module is a list of computations, a computation a list of instructions such as

    %copy.1 = bf16[8,256]{1,0:T(8,128)(2,1)S(1)} copy(%fusion.2), metadata={op_name="…" stack_frame_id=7}

whose type is an array's (or a tuple of such): dtype, dimensions, their order in memory (the minor-most first), the tile
that the minor-most dimensions are padded to, and the memory space: none is HBM, S(1) is VMEM, others are smaller still.
The file `…after_optimizations.txt` is meant, in which spaces are known.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

HBM = 0  # the memory space of a layout that names none

_HEAD = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"  (ROOT )?%?([\w.-]+) = ")
_OPCODE = re.compile(r" ([a-z][\w-]*)\(")
_NAME = re.compile(r"%([\w.-]+)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(:[^}]*)?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w+_computations?)=(\{?%[\w.-]+(?:, %[\w.-]+)*)")
_TABLE_ROW = re.compile(r'(\d+) (?:"(.*)"|\{(.*)\})$')

# What runs the computations that it names. The others (reduce, all-reduce, sort, …) name a function of two scalars.
_CALLERS = {"fusion", "while", "conditional", "call", "async-start", "custom-call"}


@dataclass(frozen=True, slots=True)
class Shape:
    """An array and where it lies; `order` has the minor-most dimension first, `tile` the minor-most side last."""

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = HBM

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclass(slots=True)
class Instruction:
    """One line of a computation; `argument` is what stands in the parentheses, `attributes` what comes after them."""

    name: str
    type: str
    opcode: str
    argument: str
    attributes: str

    @property
    def shapes(self) -> list[Shape]:
        """The arrays of its type, from left to right."""
        return [_shape(*match) for match in _ARRAY.findall(self.type)]

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.argument)

    @property
    def called(self) -> list[str]:
        """The computations that it runs."""
        if self.opcode not in _CALLERS:
            return []
        return [name for names in _CALLED.findall(self.attributes) for name in _NAME.findall(names)]

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in its attributes."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else None


@dataclass
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction | None = None

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that an instruction is an operand of."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                users[name].append(instruction)
        return users

    @cached_property
    def parameters(self) -> list[Instruction]:
        parameters = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(parameters, key=lambda i: int(i.argument))


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in the Python program, and the frame (a key of `Module.frames`) from which it was called; 0 is none."""

    file: str
    function: str
    line: int
    caller: int


@dataclass
class Module:
    """Computations by name; one comes after those that it calls, the entry last."""

    computations: dict[str, Computation]
    entry: Computation
    frames: dict[int, Frame]

    def stack(self, instruction: Instruction) -> Iterator[Frame]:
        """The Python frames that an instruction comes from, the innermost first."""
        frame = self.frames.get(int(instruction.attribute(r"stack_frame_id=(\d+)") or 0))
        while frame:
            yield frame
            frame = self.frames.get(frame.caller)

    @cached_property
    def homes(self) -> dict[str, str]:
        """Of each computation that is part of an instruction (a fusion, an asynchronous one): where that stands."""
        homes: dict[str, str] = {}
        for computation in reversed(self.computations.values()):
            for instruction in computation.instructions.values():
                if computation.name in homes or instruction.opcode in ("fusion", "async-start"):
                    homes |= {name: homes.get(computation.name, computation.name) for name in instruction.called}
        return homes


def parse(text: str) -> Module:
    """The module that a dump describes."""
    computations: dict[str, Computation] = {}
    current: Computation | None = None
    head: list[str] = []
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            assert current is not None, f"an instruction outside of a computation: {line[:80]}"
            instruction = _instruction(found[2], line, found.end())
            current.instructions[found[2]] = instruction
            if found[1]:
                current.root = instruction
        elif found := _HEAD.match(line):
            current = computations[found[2]] = Computation(found[2], {})
        elif current is None:
            head.append(line)
    assert current is not None, "no computation in the text of a module"
    return Module(computations, current, _frames(head))


def _instruction(name: str, line: str, start: int) -> Instruction:
    opcode = _OPCODE.search(line, start - 1)
    assert opcode, f"no opcode in {line[:80]}"
    end = line.find(")", opcode.end())
    return Instruction(name, line[start : opcode.start()], opcode[1], line[opcode.end() : end], line[end + 1 :])


def _shape(dtype: str, dims: str, order: str, layout: str) -> Shape:
    # Tiles after the first say how the elements of one tile are arranged, and pad no more.
    tile, space = _TILE.search(layout), _SPACE.search(layout)
    return Shape(
        dtype, _integers(dims), _integers(order), _integers(tile[1]) if tile else (), int(space[1]) if space else HBM
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _frames(head: list[str]) -> dict[int, Frame]:
    """The stack frames, out of the tables before the first computation (none where the compiler left them out)."""
    tables: dict[str, dict[int, str]] = {}
    rows: dict[int, str] = {}
    for line in head:
        if line.isalpha():
            rows = tables[line] = {}
        elif row := _TABLE_ROW.match(line):
            rows[int(row[1])] = row[2] or row[3] or ""

    def fields(table: str) -> Iterator[tuple[int, dict[str, int]]]:
        for key, row in tables.get(table, {}).items():
            yield key, {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", row)}

    places = dict(fields("FileLocations"))
    frames = dict(fields("StackFrames"))
    # "None" may be written as 0 or as 1, the others being one more accordingly; the first frame has no caller.
    none = frames[1]["parent_frame_id"] if frames else 0
    return {
        key: Frame(
            file=tables["FileNames"][places[frame["file_location_id"]]["file_name_id"]],
            function=tables["FunctionNames"][places[frame["file_location_id"]]["function_name_id"]],
            line=places[frame["file_location_id"]]["line"],
            caller=frame["parent_frame_id"] - none,
        )
        for key, frame in frames.items()
    }


# --- sizes -----------------------------------------------------------------------------------------------------------


def logical_bytes(shape: Shape) -> float:
    """The bytes of an array's elements."""
    return math.prod(shape.dims) * _element_bytes(shape.dtype)


def physical_bytes(shape: Shape) -> float:
    """The bytes that an array occupies: its minor-most dimensions are rounded up to the tile."""
    sides = [shape.dims[dim] for dim in shape.order] or list(shape.dims)
    sides += [1] * (len(shape.tile) - len(sides))
    for i, side in enumerate(reversed(shape.tile)):
        sides[i] = -(-sides[i] // side) * side
    return math.prod(sides) * _element_bytes(shape.dtype)


def _element_bytes(dtype: str) -> float:
    if dtype in ("pred", "token", "opaque"):
        return 1 if dtype == "pred" else 0
    bits = re.search(r"\d+", dtype)
    assert bits, f"an array of {dtype}"
    return int(bits[0]) / 8


# --- how often -------------------------------------------------------------------------------------------------------


def multiplicities(module: Module, open_trips: float) -> dict[str, float]:
    """How often each computation runs when the module runs once.

    A loop's body runs as often as its counter says, `open_trips` times where the text does not tell its limit. Each
    branch of a conditional is counted as if it were always taken: a bound from above.
    """
    times = dict.fromkeys(module.computations, 0.0) | {module.entry.name: 1.0}
    for computation in reversed(module.computations.values()):  # so that callers come before what they call
        for instruction in computation.instructions.values():
            for name in instruction.called:
                trips = 1.0
                if instruction.opcode == "while":
                    known = _trips(module, computation, instruction)
                    trips = open_trips if known is None else known
                times[name] += times[computation.name] * trips
    return times


def _trips(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """The trips of a `while` whose condition is counter < constant; None for any other."""
    if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    condition = module.computations[loop.attribute(r"condition=%([\w.-]+)")]
    compare = condition.root
    if compare is None or compare.opcode != "compare" or "direction=LT" not in compare.attributes:
        return None
    counter, limit = (condition.instructions[name] for name in compare.operands)
    end = _constant(condition, limit)
    if counter.opcode != "get-tuple-element" or end is None:
        return None

    index = int(counter.attribute(r"index=(\d+)"))
    carry = computation.instructions[loop.operands[0]]
    start = _constant(computation, computation.instructions[carry.operands[index]]) if carry.opcode == "tuple" else 0
    body = module.computations[loop.attribute(r"body=%([\w.-]+)")]
    advance = body.instructions[body.root.operands[index]]
    # A body that holds two iterations of the program advances the counter by two.
    steps = [_constant(body, body.instructions[name]) for name in advance.operands] if advance.opcode == "add" else []
    step = next((step for step in steps if step), 1)
    return max(0, -(-(end - (start or 0)) // step))


def _constant(computation: Computation, instruction: Instruction) -> int | None:
    """The integer that an instruction is, through copies."""
    while instruction.opcode in ("copy", "copy-start", "copy-done", "bitcast"):
        instruction = computation.instructions[instruction.operands[0]]
    return int(instruction.argument) if instruction.opcode == "constant" and instruction.argument.isdigit() else None
