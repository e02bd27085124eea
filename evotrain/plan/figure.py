"""The figure of a plan: memory against the device's, the terms of the step's time, what the network carries."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evotrain.drawing import BLUE, GREEN, GREY, ORANGE, RED, STYLE, save
from evotrain.plan import wording
from evotrain.plan.result import GIB, Plan

# What stays from step to step in one hue, what lives for a step in others.
COLORS = {
    "parameters": BLUE,
    "optimizer": "#5f8fbf",
    "average": "#a9c4df",
    "batch": GREY,
    "gradients": "#e0a878",
    "kept": ORANGE,
    "working": GREEN,
    "gaps": "#dde3e8",
}
PURPOSES = {"activations": ORANGE, "parameters": BLUE, "gradients": "#e0a878"}
CALM = "#b9c3cd"  # of a term that does not bind
COLLECTIVES = 6  # bars at most
FEWEST = 2  # bars that a panel has room for: a single one is not a slab


def draw_plan(plan: Plan, path: Path) -> None:
    """Draws a plan as a PNG file; the folder is made if need be.

    Raises:
      RunError: the disk is full, read-only or forbidden.
    """
    collectives = min(len(plan.work.merged()), COLLECTIVES)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.8 if collectives else 3.4), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
        _draw_memory(left.subplots(), plan)
        if collectives:
            above, below = right.subplots(2, 1, height_ratios=(3.5, max(collectives, FEWEST)))
            _draw_times(above, plan)
            _draw_collectives(below, plan)
        else:
            _draw_times(right.subplots(), plan)
        layout = plan.layout
        price = f"{wording.at_least(plan)} {wording.cost(plan)}{'' if plan.fits else ', if it fitted'}"
        figure.suptitle(
            f"{plan.experiment} on {plan.target}   data {layout.data} × fsdp {layout.fsdp} × context {layout.context}, "
            f"remat {layout.remat}\n{plan.steps:,} steps × {plan.batch_size} examples: {price}"
        )
        save(figure, path)


def _draw_memory(axes: Axes, plan: Plan) -> None:
    """Each part where it ends up in the whole, the whole below them, and the device's memory as a line."""
    memory, device = plan.memory, plan.device_memory / GIB
    total = memory.total / GIB
    parts = wording.parts(memory)
    begin = 0.0
    for row, name in enumerate(parts):
        size = getattr(memory, name) / GIB
        axes.barh(row, size, left=begin, color=COLORS[name], height=0.62)
        axes.barh(len(parts), size, left=begin, color=COLORS[name], height=0.62)
        _label(axes, begin + size, row, wording.gib(getattr(memory, name), memory.total))
        begin += size
    _label(axes, total, len(parts), wording.gib(memory.total), weight="bold")
    limit = GREEN if plan.fits else RED
    axes.axvline(device, color=limit, linewidth=1.2, linestyle="--")
    axes.axvspan(device, 10 * max(device, total), color=RED, alpha=0.06, linewidth=0)
    axes.set_xlim(0, 1.15 * max(total, device))
    _dress(axes, [*parts.values(), "total"], f"Memory of a device (GiB)\n{wording.verdict(plan)}", limit)


def _draw_times(axes: Axes, plan: Plan) -> None:
    """The time of each resource at its peak; the longest is the step's."""
    times = plan.times
    unit, size = next((item for item in wording.UNITS.items() if times.step >= item[1]), ("s", 1))
    for row, name in enumerate(wording.RESOURCES):
        seconds = getattr(times, name)
        binds = name == times.bound
        axes.barh(row, seconds / size, color=BLUE if binds else CALM, height=0.62)
        _label(axes, seconds / size, row, wording.duration(seconds), weight="bold" if binds else "normal")
    axes.set_xlim(0, 1.25 * times.step / size)
    certainty = "no step is faster" if plan.method == "compiled" else "by formula"
    title = f"A step at the peak rates ({unit})\n{wording.RESOURCES[times.bound]} binds: {certainty}"
    _dress(axes, list(wording.RESOURCES.values()), title)


def _draw_collectives(axes: Axes, plan: Plan) -> None:
    """What a device receives in a step, by kind and axes."""
    every = plan.work.merged()
    merged = every[:COLLECTIVES]
    prefix, size = next((item for item in wording.PREFIXES.items() if merged[0].step_bytes >= item[1]), ("", 1))
    for row, one in enumerate(merged):
        axes.barh(row, one.step_bytes / size, color=PURPOSES.get(one.purpose, GREY), height=0.62)
        _label(axes, one.step_bytes / size, row, wording.amount(one.step_bytes, "B"))
    for purpose in dict.fromkeys(one.purpose for one in merged):
        axes.barh(0, 0, color=PURPOSES.get(purpose, GREY), label=purpose)
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": len(PURPOSES)}  # in the title's second line
    axes.legend(**above, borderaxespad=0, borderpad=0.2, handlelength=1, handleheight=1)
    axes.set_xlim(0, 1.25 * merged[0].step_bytes / size)
    labels = [f"{one.kind}, {' '.join(one.axes)}" for one in merged]
    which = f", {len(merged)} largest of {len(every)}" if len(every) > len(merged) else ""
    _dress(axes, labels, f"Received in a step ({prefix}B){which}\n")


def _label(axes: Axes, x: float, row: int, text: str, **style: str) -> None:
    axes.annotate(text, (x, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, **style)


def _dress(axes: Axes, labels: list[str], title: str, color: str = "black") -> None:
    """Rows from top to bottom, a quiet grid."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(max(len(labels), FEWEST) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", color=color)
