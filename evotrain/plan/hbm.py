"""What a compiled step reads from and writes to a device's memory (HBM): operands and outputs of its instructions.

An instruction reads its operands and writes its output once, whatever tiles it cuts them into; a fusion is one
instruction. Arrays in VMEM and the like cost nothing here. Arrays count as they lie in memory, padded to tiles.
"""

from evotrain.plan.hlo import HBM, Computation, Instruction, Module, Shape, multiplicities, physical_bytes

# What moves no bytes of its own: names for what exists, what runs other instructions, and the ends of what was started.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "add-dependency"),
    *("while", "conditional", "call", "partition-id", "replica-id"),
    *("copy-done", "async-update", "async-done", "send-done", "recv-done", "all-gather-done", "all-reduce-done"),
    "collective-permute-done",
}
FREE_TARGETS = {"AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast"}  # of custom calls
# What reads only as much of its first operand as it returns.
SLICES = {"slice", "dynamic-slice", "gather"}
# What returns its operand beside its result: the type of the instruction tells all of what it moves.
RETURNING = {"copy-start", "all-gather-start", "collective-permute-start"}


def hbm_bytes(module: Module, open_trips: float) -> float:
    """Bytes that a run of a module reads and writes; `open_trips` is of loops whose number of trips the text lacks."""
    times = multiplicities(module, open_trips)
    return sum(
        times[computation.name] * moved(module, computation, instruction)
        for computation in module.computations.values()
        if times[computation.name] and computation.name not in module.homes
        for instruction in computation.instructions.values()
    )


def moved(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Bytes that one run of an instruction, one that is not part of a fusion, reads and writes."""
    opcode = instruction.opcode
    if opcode in FREE:
        return 0.0
    if opcode == "custom-call" and instruction.attribute(r'custom_call_target="([^"]*)"') in FREE_TARGETS:
        return 0.0
    if opcode == "fusion":
        return _moved_by_fusion(module, module.computations[instruction.called[0]], instruction.shapes)
    if opcode == "async-start":
        inner = module.computations[instruction.called[0]]
        return _moved_by_fusion(module, inner, inner.root.shapes)
    outputs = _in_hbm(instruction.shapes)
    if opcode in RETURNING:
        return outputs
    operands = [_in_hbm(computation.instructions[name].shapes) for name in instruction.operands]
    if opcode in SLICES:
        return outputs + min(operands[0], physical_bytes(instruction.shapes[0])) + sum(operands[1:])
    if opcode in ("dynamic-update-slice", "scatter"):  # in place
        update = instruction.operands[1 if opcode == "dynamic-update-slice" else 2]
        written = physical_bytes(computation.instructions[update].shapes[0])
        return min(outputs, written) + sum(operands[1:])
    return outputs + sum(operands)


def _moved_by_fusion(module: Module, inner: Computation, outputs: list[Shape]) -> float:
    read = sum(_read(module, inner, parameter) for parameter in inner.parameters)
    if inner.root.opcode == "tuple":
        roots = zip(inner.root.operands, outputs, strict=True)
        return read + sum(_written(module, inner, name) for name, shape in roots if shape.space == HBM)
    if len(outputs) > 1:  # of one instruction; a collective that begins hands on its operand first
        return read + _in_hbm(outputs[1:] if inner.root.opcode == "custom-call" else outputs)
    return read + (_written(module, inner, inner.root.name) if outputs[0].space == HBM else 0.0)


def _read(module: Module, inner: Computation, parameter: Instruction) -> float:
    """The bytes of a fusion's parameter that it reads."""
    whole = _in_hbm(parameter.shapes)
    return (
        min(whole, sum(_used(module, inner, parameter.name, user) for user in inner.users[parameter.name]))
        if whole
        else 0.0
    )


def _used(module: Module, inner: Computation, name: str, user: Instruction) -> float:
    """The bytes of `name`, an array from outside of a fusion, that one of its users reads."""
    operands = user.operands
    if user.opcode in SLICES and operands[0] == name and name not in operands[1:]:
        return physical_bytes(user.shapes[0])
    if user.opcode == "dynamic-update-slice" and operands[0] == name and name not in operands[1:]:
        return 0.0  # written in place
    if user.opcode == "tuple" or _continues(user):
        return 0.0
    if user.opcode in ("bitcast", "get-tuple-element") and user is not inner.root:
        return sum(_used(module, inner, user.name, next_user) for next_user in inner.users[user.name])
    if user.opcode == "fusion":
        nested = module.computations[user.called[0]]
        places = [place for place, operand in enumerate(operands) if operand == name]
        return sum(
            _used(module, nested, nested.parameters[place].name, next_user)
            for place in places
            for next_user in nested.users[nested.parameters[place].name]
        )
    return sum(map(physical_bytes, inner.instructions[name].shapes))


def _written(module: Module, inner: Computation, name: str) -> float:
    """The bytes that a fusion writes as the output that `name` is in its computation."""
    instruction = inner.instructions[name]
    if instruction.opcode == "parameter" or _continues(instruction):
        return 0.0  # handed on
    if instruction.opcode == "bitcast":
        return _written(module, inner, instruction.operands[0])
    if instruction.opcode == "dynamic-update-slice":
        return physical_bytes(inner.instructions[instruction.operands[1]].shapes[0])
    if instruction.opcode == "fusion":
        nested = module.computations[instruction.called[0]]
        if nested.root.opcode != "tuple":
            return _written(module, nested, nested.root.name)
    if instruction.opcode == "get-tuple-element":
        source = inner.instructions[instruction.operands[0]]
        if source.opcode == "fusion":
            nested = module.computations[source.called[0]]
            return _written(module, nested, nested.root.operands[int(instruction.attribute(r"index=(\d+)"))])
    return sum(map(physical_bytes, instruction.shapes))


def _continues(instruction: Instruction) -> bool:
    """Whether it goes on with, or ends, a collective that an earlier fusion has begun and is counted with."""
    if instruction.opcode == "custom-call":
        return "AsyncCollectiveDone" in instruction.attributes
    return "chain_id" in instruction.attributes and '"flag_start":"-1"' not in instruction.attributes


def _in_hbm(shapes: list[Shape]) -> float:
    return sum(physical_bytes(shape) for shape in shapes if shape.space == HBM)
