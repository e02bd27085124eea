"""What `command=plan` says on the console and writes: tables of memory, work and collectives, time and price."""

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from rich import box
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evotrain.console import TERMINAL_WIDTH
from evotrain.plan import wording
from evotrain.plan.figure import draw_plan
from evotrain.plan.result import Candidate, Collective, Plan
from evotrain.plan.search import NEAR
from evotrain.plan.workload import TRAFFIC_FACTOR
from evotrain.run_dir import disk_errors, write_atomic

COLLECTIVES = 10  # rows on the console; plan.json has them all
LAYOUTS = 10  # likewise
GOOD, BAD, BINDING, PART, LIMIT = "green", "red", "yellow", "blue", "bright_black"
BARS = range(8, 37)  # columns of a terminal


def print_plan(plan: Plan, console: Console) -> None:
    """Prints a plan in at most TERMINAL_WIDTH columns; 80 are enough."""
    width = min(console.width, TERMINAL_WIDTH)
    parts: list[RenderableType] = [_planned(plan), _memory_table(plan, width), _work_table(plan, width)]
    if plan.work.collectives:
        parts.append(_collective_table(plan))
    if plan.candidates:
        parts.append(_layout_table(plan))
    for part in parts:
        console.print(part, width=width)
        console.print()
    console.print(_conclusion(plan), width=width)
    if plan.candidates:  # on a line of their own, to be copied
        console.print(Text(plan.layout.overrides()), soft_wrap=True)


def write_plan(plan: Plan, directory: Path) -> None:
    """Writes plan.json and plan.png; the directory is made if need be.

    Raises:
      RunError: the disk is full, read-only or forbidden.
    """
    with disk_errors(directory, "plan.out"):
        directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "plan.json", (json.dumps(plan.to_json(), indent=2, allow_nan=False) + "\n").encode())
    draw_plan(plan, directory / "plan.png")


def _planned(plan: Plan) -> Table:
    layout = plan.layout
    mesh = f"data {layout.data} × fsdp {layout.fsdp} × context {layout.context}"
    return _labelled(
        {
            "plan": f"{plan.experiment}: {plan.model}, on {plan.target}",
            "layout": f"{mesh}, remat {layout.remat}, batch {plan.batch_size}, micro-batch {layout.microbatch}",
        }
    )


def _memory_table(plan: Plan, width: int) -> Table:
    """The parts, their sum and the device's memory; whether it fits stands below."""
    total, device = plan.memory.total, plan.device_memory
    color = GOOD if plan.fits else BAD

    def bar(size: float, color: str) -> Bar:
        return Bar(max(total, device), 0, size, width=_bar_width(width, 48), color=color)

    table = _table("memory of a device", ("GiB", ""), ("share", ""), ("", ""), show_footer=True)
    for name, label in wording.parts(plan.memory).items():
        size = getattr(plan.memory, name)
        table.add_row(label, wording.gib(size, total), wording.percent(size / device), bar(size, PART))
    sums = [
        "total\nof the device",
        f"{wording.gib(total)}\n{wording.gib(device)}",
        f"{wording.percent(total / device)}\n{wording.percent(1)}",
        Group(bar(total, color), bar(device, LIMIT)),
    ]
    for column, footer in zip(table.columns, sums, strict=True):
        column.footer = footer
    table.caption = Text(wording.verdict(plan), style=f"bold {color}")
    return table


def _work_table(plan: Plan, width: int) -> Table:
    """What limits a step: the time of each resource at its peak, relative to the step's."""
    work, times = plan.work, plan.times
    amounts = {
        "compute": wording.amount(work.flops, "FLOP"),
        "memory": wording.amount(work.memory_bytes, "B"),
        "network": wording.amount(sum(one.step_bytes for one in work.collectives), "B"),
    }
    table = _table("work of a device in a step", ("amount", ""), ("at peak", ""), ("share", ""), ("", ""))
    for name, label in wording.RESOURCES.items():
        seconds = getattr(times, name)
        share, binds = seconds / times.step, name == times.bound
        bar = Bar(1, 0, share, width=_bar_width(width, 58), color=BINDING if binds else PART)
        label = f"{label}, which binds" if binds else label
        cells = label, amounts[name], wording.duration(seconds), wording.percent(share), bar
        table.add_row(*cells, style="bold" if binds else "")
    return table


def _collective_table(plan: Plan) -> Table:
    """Collectives by their purpose, those of one kind and axes in one row."""
    merged = plan.work.merged()
    rows, others = merged[:COLLECTIVES], merged[COLLECTIVES:]
    total = _cells(merged, plan.times.network)
    columns = ("axes", ""), ("count", total[0]), ("mean MB", ""), ("MB", total[2]), ("ms", total[3])
    table = _table("collectives of a step", *columns, show_footer=True)
    table.columns[0].footer = "all"
    purposes = list(dict.fromkeys(one.purpose for one in rows))
    for purpose, alike in groupby(sorted(rows, key=lambda one: purposes.index(one.purpose)), lambda one: one.purpose):
        group = list(alike)
        table.add_row(purpose, "", *_cells(group, _seconds(group)))
        for one in group:
            table.add_row(f"  {one.kind}", " ".join(one.axes), *_cells([one], one.step_seconds), style="dim")
    if others:
        table.add_row(f"{len(others)} smaller", "", *_cells(others, _seconds(others)))
    return table


def _layout_table(plan: Plan) -> Table:
    """What the search has looked at: those that fit, the fastest first."""
    unit = wording.span_unit(plan.days)
    columns = [("remat", ""), ("micro-batch", ""), ("GiB", ""), ("step", ""), (unit, ""), ("dollars", "")]
    if plan.usd_per_chip_hour is None:
        columns.pop()
    table = _table("data×fsdp×context", *columns)
    shown = plan.candidates[:LAYOUTS]
    shown += tuple(one for one in plan.candidates[LAYOUTS:] if one.layout == plan.layout)
    for one in shown:
        chosen = one.layout == plan.layout
        style = "bold" if chosen else "" if one.fits else "dim"
        table.add_row(*_candidate(plan, one, unit)[: 1 + len(columns)], style=style)
    notes = ["by the analytic model"]
    if plan.candidates[0].layout != plan.layout:
        notes.append(f"→ is within {100 * NEAR:.0f} % of the fastest, and sends less")
    if len(shown) < len(plan.candidates):
        notes.append(f"{len(plan.candidates) - len(shown)} more are in plan.json")
    table.caption = Text("; ".join(notes), style="dim")
    return table


def _candidate(plan: Plan, one: Candidate, unit: str) -> list[RenderableType]:
    layout, dollars = one.layout, plan.dollars_at(one.step)
    mark = "→ " if layout == plan.layout else "  "
    memory = Text(wording.gib(one.memory, plan.memory.total), style="" if one.fits else BAD)
    return [
        mark + wording.mesh(layout),
        layout.remat,
        str(layout.microbatch),
        memory,
        wording.duration(one.step),
        wording.span(plan.days_at(one.step), unit),
        "" if dollars is None else wording.dollars(dollars),
    ]


def _conclusion(plan: Plan) -> Table:
    step, price = plan.times.step, plan.usd_per_chip_hour
    chips = "" if price is None else f", {plan.chips} chip{'s' * (plan.chips > 1)} at {wording.dollars(price)} an hour"
    rate, reached = wording.number(plan.batch_size / step), wording.percent(plan.utilisation)
    lines = {
        "step": f"{wording.duration(step)}, {rate} examples/s, {reached} of the peak FLOP/s; "
        f"at the peak rates of the hardware{_certainty(plan)}",
        "run": f"{wording.at_least(plan)} {wording.cost(plan)}{'' if plan.fits else ', if it fitted'}: "
        f"{plan.steps:,} steps × {plan.batch_size} examples{chips}",
        "source": _source(plan),
    }
    if plan.advice:
        lines["advice"] = "\n".join(plan.advice)
    if plan.candidates:
        lines["use"] = "these keys, which select the layout:"
    return _labelled(lines)


def _certainty(plan: Plan) -> str:
    if plan.method == "compiled":
        return ": no step is faster"
    return f"; the traffic with HBM is known within a factor of about {TRAFFIC_FACTOR}"


def _source(plan: Plan) -> str:
    if plan.method == "analytic":
        return "the analytic model; not compiled"
    where = "" if plan.topology is None else f" for {plan.topology}"
    return f"compiled{where}" + ("" if plan.compile_seconds is None else f" in {plan.compile_seconds:.0f} s")


def _labelled(lines: dict[str, str]) -> Table:
    """Labels with texts that are broken between words, below one another."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, text in lines.items():
        table.add_row(f"{label:<8}", Text(text))
    return table


def _table(first: str, *others: tuple[str, str], show_footer: bool = False) -> Table:
    """A table of columns (header, footer)."""
    look = {"box": box.SIMPLE, "show_edge": False, "pad_edge": False, "collapse_padding": True}
    styles = {"header_style": "bold", "footer_style": "bold", "caption_justify": "left", "caption_style": ""}
    table = Table(**look, **styles, show_footer=show_footer)
    table.add_column(first, no_wrap=True)
    for header, footer in others:
        justify = "left" if header in ("axes", "remat") else "right"
        table.add_column(header, footer, justify=justify, no_wrap=True)
    return table


def _cells(group: Iterable[Collective], seconds: float | None) -> tuple[str, str, str, str]:
    """Count, mean MB, MB and ms of collectives together."""
    group = list(group)
    count, size = sum(one.count for one in group), sum(one.step_bytes for one in group)
    each = wording.number(size / count / 1e6) if len(group) == 1 else ""
    time = "" if seconds is None else wording.number(1e3 * seconds)
    return f"{count:,.0f}", each, wording.number(size / 1e6), time


def _seconds(group: Iterable[Collective]) -> float | None:
    seconds = [one.step_seconds for one in group]
    return None if None in seconds else sum(seconds)


def _bar_width(width: int, others: int) -> int:
    """What other columns leave of the width, within what looks well."""
    return min(max(width - others, BARS[0]), BARS[-1])
