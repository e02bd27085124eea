"""The parts of a module's text, what its arrays occupy, and how often its computations run."""

import pytest

from evotrain.plan.hlo import Frame, Module, Shape, logical_bytes, multiplicities, parse, physical_bytes

MODULE = """HloModule jit_step, is_scheduled=true

FileNames
1 "/home/one/evotrain/model/a file.py"
2 "/home/one/main.py"

FunctionNames
1 "main"
2 "Block.__call__"

FileLocations
1 {file_name_id=2 function_name_id=1 line=3 end_line=3 column=1 end_column=9}
2 {file_name_id=1 function_name_id=2 line=50 end_line=52 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%fused (p.0: bf16[8,256], p.1: f32[]) -> bf16[8,256] {
  %p.0 = bf16[8,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p.1 = f32[]{:T(128)} parameter(1), metadata={op_name="x"}
  ROOT %sum = bf16[8,256]{1,0:T(8,128)(2,1)} add(%p.0, %p.1)
}

ENTRY %main (arg: bf16[8,256]) -> (bf16[8,256], s32[2]) {
  %arg = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = f32[]{:T(128)} constant(0)
  %made = bf16[8,256]{1,0:T(8,128)(2,1)} fusion(%arg, /*index=1*/%zero), kind=kLoop, calls=%fused, \
metadata={op_name="jit(step)/add" stack_frame_id=2}, backend_config={"a":"b"}
  ROOT %both = (bf16[8,256]{1,0:T(8,128)(2,1)}, /*index=1*/s32[2]{0:T(128)S(1)}) custom-call(%made)
}
"""


def loops(condition: str, *, start: str = "constant(0)", step: int = 1, attributes: str = "") -> Module:
    """A loop in an asynchronous part of a fusion's caller: the body is the computation `body`."""
    return parse(f"""HloModule loops

%inner (q: f32[8]) -> f32[8] {{
  ROOT %q = f32[8]{{0}} parameter(0)
}}

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %s = (s32[], f32[8]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8]{{0}} get-tuple-element(%s), index=1
  %by = s32[] constant({step})
  %next = s32[] add(%i, %by)
  %y = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%inner
  ROOT %t = (s32[], f32[8]{{0}}) tuple(%next, %y)
}}

%condition (s: (s32[], f32[8])) -> pred[] {{
  %s.1 = (s32[], f32[8]{{0}}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  {condition}
}}

ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  %first = s32[] {start}
  %copied = s32[] copy(%first)
  %t.0 = (s32[], f32[8]{{0}}) tuple(%copied, %a)
  %loop = (s32[], f32[8]{{0}}) while(%t.0), condition=%condition, body=%body{attributes}
  %z = f32[8]{{0}} get-tuple-element(%loop), index=1
  ROOT %w = f32[8]{{0}} fusion(%z), kind=kLoop, calls=%inner
}}
""")


UNTIL_48 = "%end = s32[] constant(48)\n  ROOT %less = pred[] compare(%i.1, %end), direction=LT"
UNTIL_DRAWN = "%end = s32[] get-tuple-element(%s.1), index=0\n  ROOT %less = pred[] compare(%i.1, %end), direction=LT"


def test_a_module_is_its_computations_and_their_instructions() -> None:
    module = parse(MODULE)
    assert list(module.computations) == ["fused", "main"]
    assert module.entry.name == "main"
    made = module.entry.instructions["made"]
    assert (made.opcode, made.operands, made.called) == ("fusion", ["arg", "zero"], ["fused"])
    assert made.attribute(r"kind=(\w+)") == "kLoop"
    assert module.entry.root.name == "both"
    assert module.entry.instructions["zero"].argument == "0"
    fused = module.computations["fused"]
    assert [parameter.name for parameter in fused.parameters] == ["p.0", "p.1"]
    assert [user.name for user in fused.users["p.1"]] == ["sum"]
    assert module.homes == {"fused": "main"}


def test_a_type_tells_dtype_dimensions_layout_and_memory() -> None:
    module = parse(MODULE)
    array, numbers = module.entry.root.shapes
    assert array == Shape("bf16", (8, 256), (1, 0), (8, 128), 0)
    assert numbers == Shape("s32", (2,), (0,), (128,), 1)
    assert str(array) == "bf16[8,256]"
    assert module.entry.instructions["zero"].shapes == [Shape("f32", (), (), (128,), 0)]


def test_an_instruction_tells_where_the_program_asks_for_it() -> None:
    module = parse(MODULE)
    stack = list(module.stack(module.entry.instructions["made"]))
    assert stack == [
        Frame("/home/one/evotrain/model/a file.py", "Block.__call__", 50, 1),
        Frame("/home/one/main.py", "main", 3, 0),
    ]
    assert list(module.stack(module.entry.root)) == []


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        ("f32[3,5]", 60),
        ("f32[3,5]{1,0:T(8,128)}", 8 * 128 * 4),
        ("f32[3,200]{0,1:T(8,128)}", 200 * 128 * 4),  # the first dimension is the minor-most
        ("bf16[256,256,4]{1,2,0:T(4,128)(2,1)}", 256 * 256 * 4 * 2),
        ("bf16[100]{0:T(256)(128)(2,1)}", 512),
        ("f32[]{:T(128)}", 512),
        ("pred[7,1,129]{2,1,0:T(8,128)(4,1)}", 7 * 8 * 256),
        ("s4[8]{0}", 4),
        ("token[]", 0),
    ],
)
def test_minor_dimensions_are_padded_to_their_tile(layout: str, size: float) -> None:
    module = parse(f"ENTRY %m (a: f32[]) -> f32[] {{\n  ROOT %x = {layout} parameter(0)\n}}\n")
    assert physical_bytes(module.entry.root.shapes[0]) == size


def test_elements_alone_have_no_padding() -> None:
    assert logical_bytes(Shape("bf16", (3, 5), (1, 0), (8, 128))) == 30


@pytest.mark.parametrize(
    ("module", "trips"),
    [
        (loops(UNTIL_48), 48),
        (loops(UNTIL_48, start="constant(1)"), 47),
        (loops(UNTIL_48, step=2), 24),  # the body holds two iterations
        (loops(UNTIL_DRAWN), 1.5),
        (loops(UNTIL_DRAWN, attributes=', backend_config={"known_trip_count":{"n":"7"}}'), 7),
    ],
)
def test_a_body_runs_as_often_as_its_loop(module: Module, trips: float) -> None:
    # The fusion stands in the body and once outside.
    assert multiplicities(module, open_trips=1.5) == {"main": 1, "condition": trips, "body": trips, "inner": trips + 1}


def test_every_branch_counts_as_taken() -> None:
    branch = "%{0} (p.{0}: f32[8]) -> f32[8] {{\n  ROOT %p.{0} = f32[8]{{0}} parameter(0)\n}}\n"
    module = parse(
        f"""{branch.format("a")}
{branch.format("b")}
{branch.format("c")}
ENTRY %main (x: f32[8], i: s32[]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %i = s32[] parameter(1)
  %y = f32[8]{{0}} conditional(%i, %x, %x), branch_computations={{%a, %b}}
  ROOT %z = f32[8]{{0}} call(%y), to_apply=%c
}}
"""
    )
    assert multiplicities(module, open_trips=1) == {"a": 1, "b": 1, "c": 1, "main": 1}
