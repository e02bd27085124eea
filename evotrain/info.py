"""`command=info`: the network module by module, its training state and representations, and a device's part of each."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evotrain.config import Config
from evotrain.console import TERMINAL_WIDTH
from evotrain.model_summary import Summary, summarise

UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


def info(config: Config) -> None:
    """Prints the summary of a configuration.

    Raises:
      ConfigError: a training run could not have this configuration.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, TERMINAL_WIDTH) if console.is_terminal else TERMINAL_WIDTH
    show(summarise(config), console)


def show(summary: Summary, console: Console) -> None:
    """Prints a summary, its arrays only where `info.arrays` asks for them."""
    parts = [_configured(summary), _module_table(summary), _state_table(summary), _activation_table(summary)]
    if summary.config.info.arrays:
        parts.insert(2, _array_table(summary, console.width))
    for part in parts:
        console.print(part)
        if part is not parts[-1]:
            console.print()


def _configured(summary: Summary) -> Text:
    config, mesh, recycles = summary.config, summary.config.mesh, summary.config.model.recycles
    devices = mesh.data * mesh.fsdp * mesh.context
    simulated, plural = "simulated " if mesh.simulate else "", "" if devices == 1 else "s"
    where = "a device" if mesh.context == 1 else f"each context group of {mesh.context} devices"
    lines = {
        "name": config.name,
        "mesh": f"data {mesh.data} × fsdp {mesh.fsdp} × context {mesh.context} = {devices} {simulated}device{plural}",
        "batch": f"{config.batch_size} examples, {summary.examples} on {where}, {mesh.microbatch} at a time",
        "recycles": f"0 to {recycles}, drawn for every step" if recycles else "none",
        "dtype": f"{config.precision.compute} activations, float32 training state",
    }
    return Text("\n").join(Text.assemble((f"{label:<10}", "bold"), text) for label, text in lines.items())


def _module_table(summary: Summary) -> Table:
    weights, state = _size(summary.memory["parameters"].device), _size(summary.state.device)
    table = _table(
        ("module", "all"), ("blocks", ""), ("parameters", f"{summary.parameters:,}"), ("share", ""),
        ("weights/\ndevice", weights), ("state/\ndevice", state),
    )  # fmt: skip
    for module in summary.modules:
        each = f"{module.layers} × {module.parameters // module.layers:,}" if module.layers > 1 else ""
        share = f"{100 * module.parameters / summary.parameters:.1f} %"
        sizes = _size(module.params.device), _size(module.state.device)
        name = "  " * module.depth + module.name
        table.add_row(name, each, f"{module.parameters:,}", share, *sizes, style="dim" if module.depth else "")
    return table


def _array_table(summary: Summary, width: int) -> Table:
    rows = []
    for array in summary.arrays:
        split = "replicated" if array.split is None else f"dimension {array.split}"
        rows.append((_shape(array.shape), split, _size(array.params.device)))
    room = width - sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True))
    table = _table(("array", ""), ("shape", ""), ("split over\nfsdp", ""), ("weights/\ndevice", ""))
    for array, row in zip(summary.arrays, rows, strict=True):
        table.add_row(_within(room, array.name), *row)
    return table


def _state_table(summary: Summary) -> Table:
    held = summary.memory | {"all": summary.state}
    rows = [(name, _size(h.whole), _size(h.device), f"{summary.evenness(h):.4f}") for name, h in held.items()]
    headers = ("training state", "whole", "on a device", f"relative to 1/{summary.config.mesh.fsdp}")
    table = _table(*zip(headers, rows.pop(), strict=True))
    for row in rows:
        table.add_row(*row)
    return table


def _activation_table(summary: Summary) -> Table:
    model, at_once = summary.config.model, summary.config.mesh.microbatch
    size = "bytes" if at_once == 1 else f"bytes of {at_once}"
    table = _table(("representation", ""), ("of an example", ""), ("on a device", ""), (size, ""))
    for part in summary.activations:
        table.add_row(part.name, _shape(part.shape), _shape(part.device_shape), _size(part.device_bytes))
    blocks = f"{model.blocks} + {model.extra_msa.blocks}" if model.extra_msa.blocks else f"{model.blocks}"
    table.add_row("kept for backward", f"inputs of {blocks} blocks", "", f"≥ {_size(summary.borders)}")
    return table


def _table(first: tuple[str, str], *others: tuple[str, str]) -> Table:
    """A table of columns (header, footer)."""
    footed = any(footer for _, footer in (first, *others))
    look = {"box": box.SIMPLE, "show_edge": False, "pad_edge": False, "collapse_padding": True}
    table = Table(**look, show_footer=footed, header_style="bold", footer_style="bold")
    table.add_column(*first, overflow="fold")
    for header, footer in others:
        table.add_column(header, footer, justify="right", no_wrap=True)
    return table


def _within(width: int, name: str) -> str:
    """A dotted name on one line, or on two where it is longer than `width`."""
    if len(name) <= width:
        return name
    first = name[:width].rpartition(".")[0]
    return f"{first}\n  {name.removeprefix(first)}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _size(size: int) -> str:
    if size < UNITS["KiB"]:
        return f"{size} B"
    unit = next(unit for unit in UNITS if size >= UNITS[unit])
    return f"{size / UNITS[unit]:.1f} {unit}"
