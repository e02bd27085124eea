"""Every file of conf/: it composes, passes the checks, explains itself, and holds only keys of the schema."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from test_config import schema_keys

from evotrain.checks import check
from evotrain.compose import compose, conf_dir
from evotrain.explain import GROUPS

ADDED = ("experiment", "sweep")
FILES = sorted(conf_dir().rglob("*.yaml"))
CHOICES = [(path.parent.name, path.stem) for path in FILES if path.parent.name in GROUPS]
EXPERIMENTS = [path.stem for path in FILES if path.parent.name == "experiment"]
ROOT = ["data.root=proteins"]
EXTRA, TEMPLATES = "data.extra_msa=8", "data.templates=8"
# By a choice, beside itself.
NEEDED = {
    "data=msa_dir": ROOT,
    "data=af2": ROOT,
    "data=mixture": ["data.sets.one.root=proteins", "data.sets.one.weight=1"],
    "data=af2_distillation": ["data.sets.experiments.root=proteins", "data.sets.predictions.root=models"],
    "kernels=cueq": ["precision=bf16"],
    "model=af2": ["data=msa_dir", *ROOT, EXTRA, TEMPLATES],
    "model=tiny_fold": ["data=msa_dir", *ROOT, EXTRA],
    "experiment=overfit_one": ["data.only=protein"],
}


def name(path: Path) -> str:
    return str(path.relative_to(conf_dir()))


def comment(path: Path) -> list[str]:
    """The comment block that opens a file."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    return list(itertools.takewhile(lambda line: line.startswith("#"), lines))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("devices", [1, 8])
def test_every_experiment_composes_and_passes_the_checks(experiment, devices):
    needs_root = "data.root=" in (conf_dir() / "experiment" / f"{experiment}.yaml").read_text()
    small = experiment in ("notebook", "overfit_one") and devices == 8
    overrides = [*NEEDED.get(f"experiment={experiment}", []), *(["batch_size=8"] if small else [])]
    config = compose([f"+experiment={experiment}", *(ROOT if needs_root else []), *overrides])
    check(config, devices)
    assert config.name == experiment


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_passes_the_checks(group, choice):
    needed = NEEDED.get(f"{group}={choice}", [])
    config = compose([f"{group}={choice}", *needed, "data.crop=64", "data.msa_clusters=64"])
    check(config, 8)


def test_every_group_of_the_design_has_choices():
    groups = {path.relative_to(conf_dir()).parts[0] for path in FILES if path.parent != conf_dir()}
    assert groups == {"model", "mesh", "target", "optimizer", "data", "precision", "kernels", "logger", "debug", *ADDED}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_says_what_it_is(path):
    assert len(comment(path)[0]) > 10
    assert len(comment(path)[0]) < 110


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "experiment"], ids=name)
def test_every_experiment_opens_with_what_to_expect(path):
    words = [line.split()[1] for line in comment(path)[1:] if len(line.split()) > 1]
    for word in ("Trains", "Hardware", "Time", "Expect", "Command"):
        assert word in words, word


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_key_exists_in_the_schema(path):
    known = schema_keys()
    group = path.relative_to(conf_dir()).parts[0]  # target/chip/ holds what the files of target/ share
    prefix = "" if group in (*ADDED, path.name) else f"{group}."

    def visit(node, parent: str) -> None:
        for key, value in node.items():
            if parent + key == "hydra" or key == "defaults":
                continue
            if parent == "data.sets.":  # the key is a name
                visit(value, "data.")
                continue
            assert parent + key in known, f"{name(path)}: {parent}{key}"
            if isinstance(value, dict):
                visit(value, f"{parent}{key}.")

    visit(OmegaConf.to_container(OmegaConf.load(path)), prefix)


def test_published_sizes():
    """AlphaFold 2, Supplement 1.11: crops, losses and optimizer of the two stages, told apart by config alone."""
    initial, finetune = (compose([f"+experiment=af2_{stage}", *ROOT]) for stage in ("initial", "finetune"))
    assert (initial.model.blocks, initial.model.c_m, initial.model.c_z) == (48, 256, 128)
    # Templates take the place of as many clusters.
    assert (initial.data.crop, initial.data.msa_clusters + initial.data.templates) == (256, 128)
    assert (finetune.data.crop, finetune.data.msa_clusters + finetune.data.templates) == (384, 512)
    assert (initial.data.extra_msa, finetune.data.extra_msa) == (1024, 5120)
    assert (initial.optimizer.lr, finetune.optimizer.lr) == (1e-3, 5e-4)
    assert initial.optimizer.warmup_examples == 1000 * initial.batch_size
    assert initial.optimizer.decay_examples == 50_000 * initial.batch_size
    assert initial.model == replace(finetune.model, loss=initial.model.loss)
    assert (initial.model.loss.violation, finetune.model.loss.violation) == (0, 1)
