"""`python -m evotrain --help`: what there is to run, read from conf/ and from the schema."""

from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evotrain.config import Config
from evotrain.data_config import DATA_CONFIGS
from evotrain.errors import ConfigError
from evotrain.explain import MANY, in_order, one_of_each_kind, spell

COMMANDS = (
    ("(nothing)", "train the quickstart: a tiny model on generated families, in minutes on a CPU"),
    ("+experiment=NAME [key=value …]", "train; continues by itself where run_dir has a checkpoint"),
    ("command=prepare data.root=DIR prepare.out=DIR", "read proteins once, into compact files that train as well"),
    ("command=info +experiment=NAME mesh=…", "modules, parameters, and what a device holds of them; nothing runs"),
    ("command=plan +experiment=NAME target=v5p_128", "memory, time and price on hardware that you do not have yet"),
    ("command=evaluate run_dir=DIR", "measure a run's checkpoint on held-out examples"),
    ("command=predict run_dir=DIR predict.input=FILE", "fold an alignment; predict.weights=FILE.npz: by AlphaFold 2"),
    ("-m +experiment=NAME key=a,b", "sweep: a run for each value, or +sweep=NAME for a prepared one"),
    ("--help GROUP", "the keys of a group"),
    ("--cfg job [key=value …]", "print the composed configuration and stop"),
)


def print_help(conf: Path, words: list[str], console: Console | None = None) -> None:
    """Prints the overview, or the keys of the groups named in `words`.

    Raises:
      ConfigError: a word is not a group.
    """
    console = console or Console(highlight=False, soft_wrap=False)
    groups = {item.name: item for item in fields(Config) if is_dataclass(item.type)}
    unknown = [word for word in words if word not in groups]
    if unknown:
        raise ConfigError(f"There is no group {unknown[0]}: write --help with one of {', '.join(groups)}.")
    if not words:
        _overview(conf, console)
    for word in words:
        _section(console, f"{word}: {groups[word].metadata['meaning']}", _choices(conf, word))
        _keys(console, groups[word].type, f"{word}.")


def _overview(conf: Path, console: Console) -> None:
    console.print("[bold]evotrain[/] trains AlphaFold 2 in JAX, from a laptop to a pod.\n")
    _section(console, "python -m evotrain …", COMMANDS)
    _section(console, "Experiments: +experiment=NAME", _choices(conf, "experiment"))
    _section(console, "Sweeps: -m +sweep=NAME", _choices(conf, "sweep"))
    rows = []
    for item in fields(Config):
        if is_dataclass(item.type):
            names = [name for name, _ in _choices(conf, item.name)]
            choices = f" ({item.name}={' | '.join(names)})" if names else ""
            if len(names) > MANY:
                choices = f" ({item.name}={' | '.join(one_of_each_kind(names))} | …: see --help {item.name})"
            rows.append((f"{item.name}.…", item.metadata["meaning"] + choices))
    _section(console, "Groups: GROUP=NAME selects a choice, GROUP.KEY=VALUE sets a key", rows)
    _section(console, "Keys", [_row(item, "") for item in fields(Config) if not is_dataclass(item.type)])
    console.print(f"The configuration files are in {conf}.", soft_wrap=True)


def _keys(console: Console, cls: Any, prefix: str) -> None:
    own = [item for item in fields(cls) if not is_dataclass(item.type)]
    _section(console, "Keys", [_row(item, prefix) for item in own])
    for item in fields(cls):
        if is_dataclass(item.type):
            _section(
                console, item.metadata["meaning"], [_row(sub, f"{prefix}{item.name}.") for sub in fields(item.type)]
            )
    if prefix == "data.":
        shared = {item.name for item in own}
        for source, kind in DATA_CONFIGS.items():
            extra = [_row(item, prefix) for item in fields(kind) if item.name not in shared]
            if extra:
                _section(console, f"Keys of data={source}", extra)


def _row(item: Field, prefix: str) -> tuple[str, str]:
    choices = item.metadata["choices"]
    notes = [f"one of {', '.join(choices)}"] if choices else []
    default = item.default if item.default is not NO_DEFAULT else []
    if default != MISSING:
        notes.append(f"default {spell(default)}")
    return prefix + item.name, item.metadata["meaning"] + (f" ({'; '.join(notes)})" if notes else "")


def _choices(conf: Path, group: str) -> list[tuple[str, str]]:
    """The files of a group with the first line of comment of each."""
    files = {path.stem: path for path in (conf / group).glob("*.yaml")}
    return [(name, _summary(files[name])) for name in in_order(files)]


def _summary(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line[2:].strip()
    return ""


def _section(console: Console, title: str, rows: Any) -> None:
    table = Table.grid(padding=(0, 2))
    rows = list(rows)
    table.add_column(style="cyan", no_wrap=True, min_width=18)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text("  " + name), Text(text))
    console.print(Text(title, style="bold"))
    if rows:
        console.print(table)
    console.print()
