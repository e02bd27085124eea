"""What a plan says on the console, in plan.json and in its figure."""

import io
import json
from dataclasses import replace

import pytest
from made_plans import ALONE, CONTEXT, PLENTY, SEARCHED, TOO_MUCH, candidate, one
from matplotlib import image
from rich.console import Console

from evotrain.errors import RunError
from evotrain.plan import wording
from evotrain.plan.report import COLLECTIVES, LAYOUTS, print_plan, write_plan
from evotrain.plan.result import GIB, Layout, Plan

PLANS = {"plenty": PLENTY, "too much": TOO_MUCH, "searched": SEARCHED, "alone": ALONE}


def shown(plan: Plan, width: int = 100) -> list[str]:
    stream = io.StringIO()
    print_plan(plan, Console(file=stream, width=width, highlight=False, markup=False, emoji=False))
    return stream.getvalue().splitlines()


def words(lines: list[str]) -> list[list[str]]:
    """The words of each line, without bars."""
    return [line.rstrip(" █▉▊▋▌▍▎▏").split() for line in lines]


def with_collectives(plan: Plan, *collectives) -> Plan:
    return replace(plan, work=replace(plan.work, collectives=collectives))


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("name", PLANS)
def test_it_fits_the_console(name, width):
    lines = shown(PLANS[name], width)
    assert max(map(len, lines)) <= min(width, 120)
    assert not any("…" in line for line in lines)  # nothing was cut off
    assert not {"nan", "inf", "None"} & {word.strip("$%,:;") for line in lines for word in line.split()}


def test_it_says_what_is_planned_and_what_it_comes_to():
    lines = shown(PLENTY, 120)
    assert lines[0].startswith("plan      af2_initial: 48 blocks")
    assert "on 128 TPU v5p chips" in " ".join(" ".join(lines[:2]).split())
    assert "layout    data 128 × fsdp 1 × context 1, remat block, batch 128, micro-batch 1" in map(str.rstrip, lines)
    text = " ".join(" ".join(lines).split())
    assert "step 156 ms, 818 examples/s, 100.0 % of the peak FLOP/s; at the peak rates of the hardware: no step" in text
    assert "run at least 3.48 hours and $1,869: 80,000 steps × 128 examples, 128 chips at $4.20 an hour" in text
    assert "source compiled for v5p:4x4x8 in 75 s" in text


def test_memory_that_fits():
    lines = shown(PLENTY)
    assert "fits: 86.06 GiB of 95.00 GiB are left" in map(str.strip, lines)
    rows = words(lines)
    assert ["working", "4.62", "4.9", "%"] in rows
    assert ["total", "8.94", "9.4", "%"] in rows
    assert ["of", "the", "device", "95.00", "100.0", "%"] in rows


def test_memory_that_does_not_fit():
    lines = shown(TOO_MUCH, 120)
    assert "does not fit: 17.05 GiB too much for 15.75 GiB" in map(str.strip, lines)
    assert any("at least 2.00 days and $923, if it fitted: 12,000 steps" in line for line in lines)
    place = next(i for i, line in enumerate(lines) if line.startswith("advice "))
    assert [" ".join(line.split()) for line in lines[place : place + 2]] == [
        f"advice {TOO_MUCH.advice[0]}",
        TOO_MUCH.advice[1],
    ]


def test_what_binds_is_marked():
    rows = words(shown(PLENTY))
    assert ["compute,", "which", "binds", "71.8", "TFLOP", "156", "ms", "100.0", "%"] in rows
    assert ["HBM", "201", "GB", "72.7", "ms", "46.5", "%"] in rows
    slow = replace(PLENTY, times=replace(PLENTY.times, network=0.313))
    rows = words(shown(slow))
    assert ["network,", "which", "binds", "740", "MB", "313", "ms", "100.0", "%"] in rows
    assert ["compute", "71.8", "TFLOP", "156", "ms", "50.0", "%"] in rows


def test_collectives_are_grouped_by_purpose_and_merged_by_kind_and_axes():
    rows = words(shown(TOO_MUCH, 80))
    assert ["all-gather", "context", "1,872", "29.3", "54,900", "549"] in rows  # of two sizes
    assert ["activations", "7,904", "184,754", "1,848"] in rows
    assert ["all-reduce", "data", "fsdp", "context", "4", "0.02", "0.08", "0.00"] in rows
    assert ["all", "9,156", "192,991", "2,500"] in rows
    table = rows[rows.index(["collectives", "of", "a", "step", "axes", "count", "mean", "MB", "MB", "ms"]) :]
    assert [row[0] for row in table if row and row[0] in ("activations", "parameters", "gradients")] == [
        "activations",
        "parameters",
        "gradients",
    ]


def test_merged_collectives_move_as_much_in_as_many_seconds():
    for plan in PLANS.values():
        for quantity in ("count", "step_bytes", "step_seconds"):
            whole = sum(getattr(c, quantity) for c in plan.work.collectives)
            assert sum(getattr(c, quantity) for c in plan.work.merged()) == pytest.approx(whole)
    idle = one("all-gather", CONTEXT, "activations", 0, 1.0, 1e9)
    assert with_collectives(PLENTY, idle).work.merged() == []


def test_many_collectives_end_in_one_row():
    axes = [("data",), ("fsdp",), ("context",), ("data", "fsdp"), ("fsdp", "context")]
    kinds = ("all-gather", "reduce-scatter", "all-reduce")
    made = [one(kind, ax, "activations", 2, 1.0 + i, 1e9) for i, ax in enumerate(axes) for kind in kinds]
    rows = words(shown(with_collectives(PLENTY, *made)))
    assert sum(bool(row) and row[0] in kinds for row in rows) == COLLECTIVES
    assert [str(len(made) - COLLECTIVES), "smaller", "10", "14.0", "14.0"] in rows
    assert ["all", "30", "90.0", "3.70"] in rows


def test_times_of_collectives_may_be_unknown():
    made = [replace(c, seconds=None) for c in TOO_MUCH.work.collectives]
    rows = words(shown(with_collectives(TOO_MUCH, *made)))
    assert ["all-gather", "context", "1,872", "29.3", "54,900"] in rows
    assert ["all", "9,156", "192,991", "2,500"] in rows  # the step's are known


def test_layouts_of_a_search():
    lines = shown(SEARCHED, 80)
    rows = words(lines)
    assert ["→", "1×2×8", "block", "1", "8.75", "14.4", "s", "2.00", "$923"] in rows
    assert ["1×8×2", "gathered", "1", "32.80", "14.4", "s", "2.00", "$923"] in rows
    assert sum("→" in row for row in rows) == 1
    assert lines[-1] == "mesh.data=1 mesh.fsdp=2 mesh.context=8 mesh.remat=block mesh.microbatch=1"
    assert "the analytic model; not compiled" in " ".join(lines)


def test_of_many_layouts_the_chosen_one_is_shown():
    made = [candidate((n, 1, 1), "block", 9.0, 10.0 + n) for n in range(1, 2 * LAYOUTS)]
    chosen = SEARCHED.candidates[0]
    lines = shown(replace(SEARCHED, candidates=(*made, chosen), layout=chosen.layout))
    assert any(line.startswith("→ 1×2×8 ") for line in lines)
    notes = (
        "by the analytic model",
        "→ is within 2 % of the fastest, and sends less",
        f"{LAYOUTS - 1} more are in plan.json",
    )
    assert "; ".join(notes) in " ".join(" ".join(lines).split())


def test_the_keys_of_a_layout_stand_in_one_line_whatever_the_width():
    layout = Layout(data=512, fsdp=16, context=16, remat="gathered", microbatch=16)
    plan = replace(SEARCHED, layout=layout, candidates=(replace(SEARCHED.candidates[0], layout=layout),))
    assert shown(plan, 60)[-1] == layout.overrides()


def test_one_device_without_a_price():
    lines = shown(ALONE)
    text = "\n".join(lines)
    assert "collectives" not in text
    assert "$" not in text
    assert ["network", "0", "B", "0", "s", "0.0", "%"] in words(lines)
    assert ["total", "0.00860", "0.1", "%"] in words(lines)
    layout = replace(SEARCHED, usd_per_chip_hour=None)
    assert "dollars" not in "\n".join(shown(layout))


@pytest.mark.parametrize("name", PLANS)
def test_files(name, tmp_path):
    plan, directory = PLANS[name], tmp_path / "new" / "plan"
    write_plan(plan, directory)
    assert sorted(file.name for file in directory.iterdir()) == ["plan.json", "plan.png"]
    written = json.loads((directory / "plan.json").read_text())
    assert written["fits"] == plan.fits
    assert written["memory_total"] == pytest.approx(sum(written["memory"].values()))
    assert written["dollars"] == plan.dollars
    assert len(written["work"]["collectives"]) == len(plan.work.collectives)
    assert len(written["candidates"]) == len(plan.candidates)
    picture = image.imread(directory / "plan.png")
    assert picture.shape[1] == pytest.approx(1440, abs=2)
    assert picture[..., :3].std() > 0.05


def test_what_the_run_comes_to_follows_from_the_step():
    assert SEARCHED.days == pytest.approx(12_000 * 14.42 / 86400)
    assert SEARCHED.dollars == pytest.approx(SEARCHED.days * 24 * 16 * 1.20)
    assert SEARCHED.days_at(2 * SEARCHED.times.step) == pytest.approx(2 * SEARCHED.days)
    assert ALONE.dollars is None
    assert PLENTY.to_json()["examples"] == 10_240_000


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"choose another plan\.out=…"):
        write_plan(PLENTY, tmp_path / "file" / "plan")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.number(94_348.8), "94,349"),
        (wording.number(37.74), "37.7"),
        (wording.number(0.083), "0.08"),
        (wording.number(0), "0"),
        (wording.gib(8.94 * GIB), "8.94"),
        (wording.gib(0.0034 * GIB), "0.00340"),
        (wording.gib(0.0034 * GIB, 8.94 * GIB), "0.00"),
        (wording.amount(2840e12, "FLOP"), "2,840 TFLOP"),
        (wording.amount(740e6, "B"), "740 MB"),
        (wording.amount(12, "B"), "12.0 B"),
        (wording.duration(14.42), "14.4 s"),
        (wording.duration(0.0381), "38.1 ms"),
        (wording.duration(60.9e-6), "60.9 µs"),
        (wording.span(0.145, wording.span_unit(0.145)), "3.48"),
        (wording.span_unit(0.145), "hours"),
        (wording.span_unit(1), "days"),
        (wording.span_unit(0), "seconds"),
        (wording.dollars(1869.4), "$1,869"),
        (wording.dollars(1.2), "$1.20"),
    ],
)
def test_numbers_in_words(text, expected):
    assert text == expected
