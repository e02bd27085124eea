"""Every command of the documentation composes, and none of them runs into another one's run directory."""

import itertools
import re
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from evotrain.checks import check
from evotrain.checks_data import check_prepare
from evotrain.cli import check_sweep, split_arguments, trial_name
from evotrain.compose import compose
from evotrain.config import Config
from evotrain.trained import implicit_overrides

DOCUMENTS = ("README.md", "data/README.md", "launch/README.md")
SHARDS = re.compile(r"\$\(seq -s, -f (\S+) (\d+) (\d+)\)")
LAUNCHER = ("hydra/launcher", "hydra.launcher.", "+sweep=")  # say where trials run, not what they do
RECIPES = "| command (`python -m evotrain …`) |"
GPUS_PER_NODE = 8  # of launch/slurm.sh
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Command:
    document: str
    text: str
    arguments: tuple[str, ...]  # of python -m evotrain
    devices: int = 1

    @property
    def trains(self) -> bool:
        return not {"--help", "command=info", "command=plan", "command=evaluate", "command=prepare"} & {*self.arguments}

    def trials(self) -> list[list[str]]:
        """The overrides of its run, or of each trial of its sweep."""
        flags, overrides = split_arguments([word for word in self.arguments if word != "--help"])
        check_sweep(flags, overrides)
        if "-m" not in flags:
            return [overrides]
        keys = [override.partition("=") for override in overrides if not override.startswith(LAUNCHER)]
        choices = [[f"{key}={value}" for value in values.split(",")] for key, _, values in keys]
        return [list(trial) for trial in itertools.product(*choices)]

    def configs(self) -> list[Config]:
        """The configuration of its run, or of each trial of its sweep."""
        configs = [compose(trial) for trial in self.trials()]
        if "-m" not in self.arguments:
            return configs
        names = [trial_name(trial) for trial in self.trials()]
        return [
            replace(config, run_dir=f"{config.run_dir}/{name}") for config, name in zip(configs, names, strict=True)
        ]


def code(text: str) -> list[str]:
    """The lines of fenced and indented code, then the inline code."""
    text = re.sub(r" *\\\n *", " ", text)  # lines that go on
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = "\n".join(fenced).splitlines() + re.findall(r"^    (.+)$", rest, re.MULTILINE)
    return [part.strip() for line in lines for part in line.split("&&")] + re.findall(r"`([^`\n]+)`", rest)


def recipes(text: str) -> list[str]:
    """The commands of the table whose first column leaves out `python -m evotrain`."""
    table = text.partition(RECIPES)[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    return [f"python -m evotrain {inline}" for cell in cells for inline in re.findall(r"`([^`]+)`", cell)]


def parse(document: str, text: str) -> Command | None:
    """The command, if it is one of evotrain's that is spelled out."""
    text = SHARDS.sub(spell_out, text)
    if "…" in text or not text.startswith(("python ", "sbatch ")):
        return None
    words = shlex.split(text.replace("DIRECTORY", "data/sample"))
    if words[:3] == ["python", "-m", "evotrain"]:
        return Command(document, text, tuple(words[3:]))
    if words[:2] == ["python", "launch/local.py"]:
        end = words.index("--")
        options = dict(zip(words[2:end:2], words[3:end:2], strict=True))
        devices = int(options["--processes"]) * int(options["--devices-per-process"])
        return Command(document, text, tuple(words[end + 1 :]), devices)
    if words[0] == "sbatch" and words[2] == "launch/slurm.sh":
        nodes = int(words[1].removeprefix("--nodes="))
        return Command(document, text, tuple(words[3:]), nodes * GPUS_PER_NODE)
    if words[0] == "sbatch" and words[2] == "launch/slurm_prepare.sh":
        return Command(document, text, ("command=prepare", *words[3:]))
    return None


def spell_out(shards: re.Match[str]) -> str:
    """What the shell puts in the place of `$(seq -s, -f FORMAT FIRST LAST)`."""
    form, first, last = shards.groups()
    return ",".join(form.replace("%g", str(number)) for number in range(int(first), int(last) + 1))


def commands() -> list[Command]:
    found = []
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        found += [parse(document, line) for line in [*code(text), *recipes(text)]]
    return [command for command in found if command]


COMMANDS = commands()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_nothing_of_an_edit_was_left_behind(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE)
    assert sorted(set(headings)) == sorted(headings), "a heading stands twice"
    outside = re.sub(r"<!--.*?-->", "", prose, flags=re.DOTALL)
    assert "<!--" not in outside, "a comment has no end"
    assert "-->" not in outside, "a comment has no beginning"


def test_the_commands_are_found():
    starts = {(command.document, command.text.split(" ")[0]) for command in COMMANDS}
    assert starts == {
        ("README.md", "python"),
        ("data/README.md", "python"),
        ("launch/README.md", "python"),
        ("launch/README.md", "sbatch"),
    }
    texts = [command.text for command in COMMANDS]
    assert "python -m evotrain" in texts
    assert "python -m evotrain +experiment=notebook" in texts
    assert "python -m evotrain command=evaluate run_dir=runs/quickstart" in texts
    assert any(" -m " in text.removeprefix("python -m") for text in texts)
    shards = [command for command in COMMANDS if "-m" in command.arguments and "command=prepare" in command.arguments]
    assert [len(command.trials()) for command in shards if "+sweep=ray" in command.arguments] == [64]
    assert len(shards) == 2


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.document}: {command.text}")
def test_a_command_composes_and_passes_the_checks(monkeypatch, command):
    monkeypatch.setattr(shutil, "which", lambda program: program)  # a cluster's
    if "command=prepare" in command.arguments:
        trials = command.trials()
        for overrides in {*map(tuple, (trials[0], trials[-1]))}:
            check_prepare(compose([*implicit_overrides(overrides), *overrides]), overrides)
    if not command.trains:
        assert command.trials()
        return
    for config in command.configs():
        check(config, config.mesh.simulate or command.devices)


def test_no_two_commands_share_a_run_directory_unless_they_are_the_same_run():
    runs: dict[str, tuple[Config, str]] = {}
    for command in COMMANDS:
        for config in command.configs() if command.trains else ():
            earlier, text = runs.setdefault(config.run_dir, (config, command.text))
            assert earlier == config, f"{text} and {command.text} both write to {config.run_dir}"
