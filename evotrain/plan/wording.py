"""How a plan names its parts and words its numbers, on the console and in the figure."""

import math

from evotrain.plan.result import GIB, Layout, Memory, Plan

PARTS = {
    "parameters": "parameters",
    "optimizer": "optimizer",
    "average": "average (EMA)",
    "batch": "batch",
    "gradients": "gradients, weight copies",
    "kept": "kept for backward",
    "working": "working",
    "gaps": "gaps, tables",
}
RESOURCES = {"compute": "compute", "memory": "HBM", "network": "network"}
SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
UNITS = {"s": 1, "ms": 1e-3, "µs": 1e-6}
PREFIXES = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}


def parts(memory: Memory) -> dict[str, str]:
    """The names of the parts that there are, by field; the analytic model knows no gaps."""
    return {name: label for name, label in PARTS.items() if name != "gaps" or memory.gaps}


def at_least(plan: Plan) -> str:
    """Before a time or a price at the peak rates: formulas may also take too much for the traffic with HBM."""
    return "at least" if plan.method == "compiled" else "about"


def number(value: float) -> str:
    """Three digits or more, and two decimals or fewer: 94,349, 37.7, 0.08."""
    return f"{value:,.{min(2, _decimals(value))}f}"


def gib(size: float, total: float | None = None) -> str:
    """Bytes in GiB, with two decimals, or with as many as it takes to see three digits of a total or of itself."""
    decimals = max(2, _decimals((size if total is None else total) / GIB))
    return f"{size / GIB:,.{decimals}f}"


def amount(value: float, unit: str) -> str:
    """A number of units with a prefix: 2,840 TFLOP, 201 GB."""
    scale, prefix = next(((s, p) for p, s in PREFIXES.items() if value >= s), (1, ""))
    return f"{number(value / scale)} {prefix}{unit}"


def duration(seconds: float) -> str:
    """A time: 1.37 s, 38.1 ms."""
    scale, unit = next(((s, unit) for unit, s in UNITS.items() if seconds >= s), (1, "s"))
    return f"{number(seconds / scale)} {unit}"


def span_unit(days: float) -> str:
    """The largest unit of which so many days are at least one."""
    return next((unit for unit, seconds in SECONDS.items() if days * SECONDS["days"] >= seconds), "seconds")


def span(days: float, unit: str) -> str:
    """The number of such units."""
    return number(days * SECONDS["days"] / SECONDS[unit])


def dollars(value: float) -> str:
    """A sum of money, to the cent where it is small."""
    return f"${value:,.2f}" if value < 100 else f"${value:,.0f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def mesh(layout: Layout) -> str:
    return f"{layout.data}×{layout.fsdp}×{layout.context}"


def verdict(plan: Plan) -> str:
    """Whether the plan fits, with the numbers."""
    left, device = plan.device_memory - plan.memory.total, gib(plan.device_memory)
    if plan.fits:
        return f"fits: {gib(left)} GiB of {device} GiB are left"
    return f"does not fit: {gib(-left)} GiB too much for {device} GiB"


def cost(plan: Plan) -> str:
    """The least time of the run, and what the chips cost in it."""
    unit = span_unit(plan.days)
    time = f"{span(plan.days, unit)} {unit}"
    return time if plan.dollars is None else f"{time} and {dollars(plan.dollars)}"


def _decimals(value: float) -> int:
    """Those that show three digits of a value."""
    return max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
