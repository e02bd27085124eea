"""The bytes that instructions read and write in a device's memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evotrain.plan.hbm import hbm_bytes
from evotrain.plan.hlo import parse

SCRIPT = Path(__file__).with_name("known_traffic.py")

TYPE = "f32[8,128]{1,0:T(8,128)}"
FAST = "f32[8,128]{1,0:T(8,128)S(1)}"
WIDE = "f32[64,128]{1,0:T(8,128)}"
ONE = 8 * 128 * 4  # bytes of TYPE; WIDE has eight times as many
INDEX = 512  # bytes of a padded number, of which two are read


def moved(*lines: str, before: str = "") -> float:
    """The bytes of a program with these instructions, of which the last is what it returns."""
    arguments = (
        f"%x = {TYPE} parameter(0)",
        f"%w = {WIDE} parameter(1)",
        "%i = s32[]{:T(128)} parameter(2)",
        f"%v = {FAST} parameter(3)",
    )
    *others, last = lines
    body = "".join(f"  {line}\n" for line in (*arguments, *others))
    return hbm_bytes(
        parse(f"HloModule m\n{before}\nENTRY %main (x: f32[]) -> f32[] {{\n{body}  ROOT {last}\n}}\n"), 2.0
    )


@pytest.mark.parametrize(
    ("line", "bytes_"),
    [
        (f"{TYPE} copy(%x)", 2 * ONE),
        (f"{FAST} copy(%x)", ONE),  # into VMEM
        (f"{FAST} add(%v, %v)", 0),
        (f"{TYPE} add(%x, %v)", 2 * ONE),
        ("f32[3,5]{1,0:T(8,128)} slice(%x)", 2 * ONE),  # padded
        (f"{TYPE} bitcast(%x)", 0),
        (f"({TYPE}, {WIDE}) tuple(%x, %w)", 0),
        (f"{WIDE} broadcast(%i)", 8 * ONE + INDEX),
        (f"{TYPE} dynamic-slice(%w, %i, %i), dynamic_slice_sizes={{8,128}}", 2 * ONE + 2 * INDEX),
        (f"{WIDE} dynamic-update-slice(%w, %x, %i, %i)", 2 * ONE + 2 * INDEX),
        (f'{WIDE} custom-call(), custom_call_target="AllocateBuffer"', 0),
        (f'{TYPE} custom-call(%x), custom_call_target="Other"', 2 * ONE),
        (f"{WIDE} all-gather(%x), replica_groups={{}}, dimensions={{0}}", 9 * ONE),
    ],
)
def test_operands_are_read_and_outputs_written(line: str, bytes_: float) -> None:
    assert moved(f"%y = {line}") == bytes_


def test_what_is_copied_asynchronously_is_moved_once() -> None:
    start = f"%s = ({FAST}, {TYPE}, u32[]{{:S(2)}}) copy-start(%x)"
    assert moved(start, f"%d = {FAST} copy-done(%s)") == ONE

    part = f"\n%part (p: f32[64,128]) -> f32[8,128] {{\n  %p = {WIDE} parameter(0)\n  ROOT %q = {FAST} slice(%p)\n}}\n"
    start = f"%s = (({WIDE}), {FAST}, s32[]{{:S(2)}}) async-start(%w), calls=%part"
    assert moved(start, f"%d = {FAST} async-done(%s)", before=part) == ONE


def fused(*lines: str) -> str:
    """A fused computation of parameters a (WIDE), b (TYPE), i (a number) and v (in VMEM)."""
    parameters = (
        f"%a = {WIDE} parameter(0)",
        f"%b = {TYPE} parameter(1)",
        "%k = s32[]{:T(128)} parameter(2)",
        f"%c = {FAST} parameter(3)",
    )
    *others, last = lines
    body = "".join(f"  {line}\n" for line in (*parameters, *others))
    return f"\n%fused (a: f32[]) -> f32[] {{\n{body}  ROOT {last}\n}}\n"


def moved_by_fusion(output: str, *lines: str, before: str = "") -> float:
    line = f"%f = {output} fusion(%w, %x, %i, %v), kind=kLoop, calls=%fused"
    return moved(line, before=before + fused(*lines))


@pytest.mark.parametrize(
    ("output", "lines", "bytes_"),
    [
        (TYPE, (f"%r = {TYPE} add(%b, %c)",), 2 * ONE),  # what is not used is not read
        (FAST, (f"%n = {TYPE} negate(%b)", f"%r = {FAST} add(%n, %b)"), ONE),  # read once, whatever it is used for
        (WIDE, (f"%n = {WIDE} negate(%a)", f"%r = {WIDE} add(%n, %a)"), 16 * ONE),
        # Through a slice, only the slice; several up to the whole.
        (TYPE, (f"%r = {TYPE} dynamic-slice(%a, %k, %k), dynamic_slice_sizes={{8,128}}",), 2 * ONE + INDEX),
        (TYPE, (f"%t = {WIDE} bitcast(%a)", f"%r = {TYPE} slice(%t)"), 2 * ONE),
        (TYPE, (f"%s = {TYPE} slice(%a)", f"%n = {WIDE} negate(%a)", f"%r = {TYPE} slice(%n)"), 9 * ONE),
        # In place, only the update.
        (WIDE, (f"%n = {TYPE} negate(%b)", f"%r = {WIDE} dynamic-update-slice(%a, %n, %k, %k)"), 2 * ONE + INDEX),
        (
            f"({TYPE}, {WIDE})",
            (f"%u = {WIDE} dynamic-update-slice(%a, %c, %k, %k)", f"%r = ({TYPE}, {WIDE}) tuple(%b, %u)"),
            ONE + INDEX,
        ),
        (f"({FAST}, {TYPE})", (f"%n = {TYPE} negate(%b)", f"%r = ({FAST}, {TYPE}) tuple(%n, %n)"), 2 * ONE),
    ],
)
def test_a_fusion_moves_what_leaves_and_enters_it(output: str, lines: tuple[str, ...], bytes_: float) -> None:
    assert moved_by_fusion(output, *lines) == bytes_


def test_a_fusion_in_a_fusion_moves_nothing_of_its_own() -> None:
    inner = f"""
%inner (p: f32[64,128], j: s32[]) -> f32[8,128] {{
  %p = {WIDE} parameter(0)
  %j = s32[]{{:T(128)}} parameter(1)
  ROOT %q = {TYPE} dynamic-slice(%p, %j, %j), dynamic_slice_sizes={{8,128}}
}}
"""
    lines = f"%s = {TYPE} fusion(%a, %k), kind=kLoop, calls=%inner", f"%r = {TYPE} add(%s, %b)"
    assert moved_by_fusion(TYPE, *lines, before=inner) == 3 * ONE + INDEX


def test_a_collective_that_is_spread_over_fusions_is_moved_once() -> None:
    def part(name: str, start: int, operand: str, result: str) -> str:
        config = f'frontend_attributes={{chain_id="3"}}, backend_config={{"flag_start":"{start}"}}'
        return f"""
%{name} (p.{name}: f32[8,128], o.{name}: f32[64,128]) -> f32[64,128] {{
  %p.{name} = {TYPE} parameter(0)
  %o.{name} = {WIDE} parameter(1)
  %g.{name} = {WIDE} all-gather(%p.{name}), replica_groups={{}}, dimensions={{0}}, {config}
  ROOT %r.{name} = {result}
}}
"""

    pair = f"({TYPE}, {WIDE})"
    begins = part("begins", -1, "p", f'{pair} custom-call(%g.begins), custom_call_target="AsyncCollectiveStart"')
    goes_on = part("goes_on", 2, "p", f"{pair} tuple(%p.goes_on, %g.goes_on)")
    ends = part("ends", 2, "p", f'{WIDE} custom-call(%g.ends), custom_call_target="AsyncCollectiveDone"')
    lines = (
        f"%f = {pair} fusion(%x, %w), calls=%begins",
        f"%f.1 = {pair} fusion(%x, %w), calls=%goes_on",
        f"%f.2 = {WIDE} fusion(%x, %w), calls=%ends",
    )
    assert moved(*lines, before=begins + goes_on + ends) == 9 * ONE


def test_a_loop_moves_what_its_body_does() -> None:
    loop = f"""
%body (s: f32[8,128]) -> f32[8,128] {{
  %s = {TYPE} parameter(0)
  ROOT %t = {TYPE} negate(%s)
}}
%condition (s: f32[8,128]) -> pred[] {{
  ROOT %go = pred[]{{:T(512)}} parameter(0)
}}
"""
    assert moved(f"%y = {TYPE} while(%x), condition=%condition, body=%body", before=loop) == 2 * 2 * ONE


def test_a_fusion_whose_operand_is_only_renamed_inside_of_another_reads_it() -> None:
    """As the operands of a matrix product are."""
    inner = f"""
%inner (p: f32[64,128]) -> f32[64,128] {{
  %p = {WIDE} parameter(0)
  ROOT %q = {WIDE} bitcast(%p)
}}
"""
    lines = f"%s = {WIDE} fusion(%a), kind=kLoop, calls=%inner", f"%r = {TYPE} convolution(%b, %s)"
    assert moved_by_fusion(TYPE, *lines, before=inner) == 10 * ONE


def test_compiled_programs_move_what_is_known_of_them(tpu_compiler) -> None:
    """Among them products, loops and a collective, of arrays that fit no VMEM."""
    process = subprocess.run([sys.executable, SCRIPT], check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    for name, (known, counted) in json.loads(process.stdout.splitlines()[-1]).items():
        assert counted == pytest.approx(known, rel=1e-3), name
