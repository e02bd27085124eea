"""The collectives of a module: each once, by what it does, between whom, with the bytes that a device receives."""

import pytest

from evotrain.plan.hlo import parse
from evotrain.plan.result import Collective
from evotrain.plan.traffic import collectives

AXES = {"data": 2, "fsdp": 2, "context": 4}
ROW = 3 * 8 * 100 * 2  # bytes of bf16[3,8,100], padding left out

FRAMES = """HloModule step

FileNames
1 "/x/evotrain/model/triangle.py"
2 "/x/evotrain/parallel/context.py"
3 "/x/evotrain/parallel/fsdp.py"

FunctionNames
1 "Triangle.__call__"
2 "gather"

FileLocations
1 {file_name_id=1 function_name_id=1 line=41 end_line=41 column=1 end_column=2}
2 {file_name_id=2 function_name_id=2 line=30 end_line=30 column=1 end_column=2}
3 {file_name_id=3 function_name_id=2 line=60 end_line=60 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}

%sum (l: f32[], r: f32[]) -> f32[] {
  %l = f32[] parameter(0)
  %r = f32[] parameter(1)
  ROOT %lr = f32[] add(%l, %r), metadata={stack_frame_id=2}
}
"""


def found(*lines: str, before: str = "") -> list[Collective]:
    """The collectives of a program with these instructions, of which the last is what it returns."""
    *others, last = lines
    body = "".join(f"  {line}\n" for line in ("%x = bf16[3,8,100]{2,1,0:T(8,128)(2,1)} parameter(0)", *others))
    return collectives(
        parse(f"{FRAMES}{before}\nENTRY %main (x: f32[]) -> f32[] {{\n{body}  ROOT {last}\n}}\n"), AXES, 1.5
    )


GROUPS = "replica_groups={{0,1,2,3},{4,5,6,7},{8,9,10,11},{12,13,14,15}}"


@pytest.mark.parametrize(
    ("line", "kind", "bytes_"),
    [
        ("%c = bf16[3,32,100]{2,1,0} all-gather(%x), dimensions={1}", "all-gather", 3 * ROW),
        ("%c = bf16[3,2,100]{2,1,0} reduce-scatter(%x), to_apply=%sum", "reduce-scatter", 3 / 4 * ROW),
        ("%c = bf16[3,8,100]{2,1,0} all-reduce(%x), to_apply=%sum", "all-reduce", 2 * 3 / 4 * ROW),
        ("%c = (bf16[3,8,100]{2,1,0}, bf16[3,8,100]{2,1,0}) all-reduce(%x, %x), to_apply=%sum", "all-reduce", 3 * ROW),
        ("%c = bf16[3,8,100]{2,1,0} all-to-all(%x), dimensions={1}", "all-to-all", 3 / 4 * ROW),
    ],
)
def test_bytes_are_those_that_a_device_receives(line: str, kind: str, bytes_: float) -> None:
    (one,) = found(f"{line}, {GROUPS}")
    assert (one.kind, one.count, one.bytes, one.axes) == (kind, 1, pytest.approx(bytes_), ("context",))


@pytest.mark.parametrize(
    ("groups", "axes", "bytes_"),
    [
        ("replica_groups={{0,4},{1,5},{2,6},{3,7},{8,12},{9,13},{10,14},{11,15}}", ("fsdp",), ROW / 2),
        ("replica_groups={{0,8},{1,9},{2,10},{3,11},{4,12},{5,13},{6,14},{7,15}}", ("data",), ROW / 2),
        ("replica_groups=[4,4]<=[16]", ("context",), ROW * 3 / 4),
        ("replica_groups=[4,4]<=[4,4]T(1,0)", ("data", "fsdp"), ROW * 3 / 4),
        ("replica_groups=[8,2]<=[2,2,4]T(0,2,1)", ("fsdp",), ROW / 2),
        ("replica_groups=[2,8]<=[2,2,4]T(1,0,2)", ("data", "context"), ROW * 7 / 8),
        ("replica_groups={}", ("data", "fsdp", "context"), ROW * 15 / 16),
    ],
)
def test_groups_tell_the_axes(groups: str, axes: tuple[str, ...], bytes_: float) -> None:
    (one,) = found(f"%c = bf16[3,8,100]{{2,1,0}} all-to-all(%x), channel_id=1, {groups}, dimensions={{1}}")
    assert (one.axes, one.bytes) == (axes, pytest.approx(bytes_))


def test_a_device_alone_receives_nothing() -> None:
    assert found("%c = bf16[3,8,100]{2,1,0} all-to-all(%x), replica_groups=[16,1]<=[16]") == []


def test_an_asynchronous_collective_is_one() -> None:
    types = "bf16[3,8,100]{2,1,0}, bf16[3,8,100]{2,1,0}"
    (one,) = found(
        f"%s = ({types}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{{{0,1}},{{1,2}},{{2,3}}}}",
        "%d = bf16[3,8,100]{2,1,0} collective-permute-done(%s)",
    )
    assert (one.kind, one.bytes, one.axes, one.count) == ("collective-permute", ROW, ("context",), 1)

    wrapped = f"""
%wrapped (p: bf16[3,8,100]) -> bf16[3,8,100] {{
  %p = bf16[3,8,100]{{2,1,0}} parameter(0)
  ROOT %g = bf16[3,8,100]{{2,1,0}} all-to-all(%p), {GROUPS}, dimensions={{1}}
}}
"""
    (one,) = found(
        "%s = ((bf16[3,8,100]{2,1,0}), bf16[3,8,100]{2,1,0}, s32[]) async-start(%x), calls=%wrapped",
        "%u = ((bf16[3,8,100]{2,1,0}), bf16[3,8,100]{2,1,0}, s32[]) async-update(%s), calls=%wrapped",
        "%d = bf16[3,8,100]{2,1,0} async-done(%u), calls=%wrapped",
        before=wrapped,
    )
    assert (one.kind, one.count) == ("all-to-all", 1)


def test_a_collective_that_is_spread_over_fusions_is_one_in_each_loop() -> None:
    def part(name: str, chain: int) -> str:
        gather = f'all-gather(%p.{name}), {GROUPS}, dimensions={{1}}, frontend_attributes={{chain_id="{chain}"}}'
        return f"""
%{name} (p.{name}: bf16[3,8,100]) -> bf16[3,32,100] {{
  %p.{name} = bf16[3,8,100]{{2,1,0}} parameter(0)
  ROOT %g.{name} = bf16[3,32,100]{{2,1,0}} {gather}
}}
"""

    def fusion(name: str) -> str:
        return f"%f.{name} = bf16[3,32,100]{{2,1,0}} fusion(%x), kind=kCustom, calls=%{name}"

    loop = f"""
%body (x: bf16[3,8,100]) -> bf16[3,8,100] {{
  %x = bf16[3,8,100]{{2,1,0}} parameter(0)
  {fusion("inside")}
  {fusion("inside_again")}
  ROOT %y = bf16[3,8,100]{{2,1,0}} copy(%x)
}}
%condition (x: bf16[3,8,100]) -> pred[] {{
  ROOT %go = pred[] parameter(0)
}}
"""
    before = part("start", 0) + part("end", 0) + part("other", 1) + part("inside", 0) + part("inside_again", 0) + loop
    lines = (fusion("start"), fusion("end"), fusion("other"))
    every = found(*lines, "%w = bf16[3,8,100]{2,1,0} while(%x), condition=%condition, body=%body", before=before)
    assert sorted(one.count for one in every) == [1, 1, 1.5]
    assert {one.bytes for one in every} == {3 * ROW}


def test_an_all_reduce_of_which_a_fusion_keeps_a_slice_is_a_reduce_scatter() -> None:
    def fused(keep: str) -> str:
        return f"""
%all-reduce-scatter (p: bf16[3,8,100], i: s32[]) -> bf16[3,2,100] {{
  %p = bf16[3,8,100]{{2,1,0}} parameter(0)
  %i = s32[] parameter(1)
  %r = bf16[3,8,100]{{2,1,0}} all-reduce(%p), {GROUPS}, to_apply=%sum
  %b = bf16[3,8,100]{{2,1,0}} bitcast(%r)
  ROOT %k = bf16[3,2,100]{{2,1,0}} {keep}
}}
"""

    lines = "%i = s32[] constant(0)", "%f = bf16[3,2,100]{2,1,0} fusion(%x, %i), calls=%all-reduce-scatter"
    (one,) = found(*lines, before=fused("dynamic-slice(%b, %i, %i, %i), dynamic_slice_sizes={3,2,100}"))
    assert (one.kind, one.bytes) == ("reduce-scatter", pytest.approx(3 / 4 * ROW))
    (one,) = found(*lines, before=fused("negate(%b)"))
    assert one.kind == "all-reduce"


@pytest.mark.parametrize(
    ("line", "purpose", "source"),
    [
        ("all-gather(%x), metadata={stack_frame_id=2}", "activations", "Triangle.__call__, triangle.py:41"),
        ("all-gather(%x), metadata={stack_frame_id=3}", "parameters", "Triangle.__call__, triangle.py:41"),
        ("reduce-scatter(%x), metadata={stack_frame_id=3}", "gradients", "Triangle.__call__, triangle.py:41"),
        # Made by the compiler out of a reduce-scatter, of which only the reduction has kept its origin.
        ("all-reduce(%x), to_apply=%sum", "activations", "Triangle.__call__, triangle.py:41"),
        ("all-gather(%x)", "activations", None),
    ],
)
def test_the_place_in_the_program_tells_the_purpose(line: str, purpose: str, source: str | None) -> None:
    (one,) = found(f"%c = bf16[3,8,100]{{2,1,0}} {line}, {GROUPS}")
    assert (one.purpose, one.source) == (purpose, source)
