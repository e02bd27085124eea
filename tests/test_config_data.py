"""The keys of the data: sets of proteins, mixtures, and what command=prepare takes."""

import pytest

from evotrain.checks import check
from evotrain.checks_data import check_prepare, shard
from evotrain.compose import compose, load_saved, to_yaml
from evotrain.data_config import MixedSetConfig
from evotrain.errors import ConfigError

ROOT = ["data=msa_dir", "data.root=/x"]
MIXTURE = ["data=mixture", "data.sets.a.root=/a", "data.sets.a.weight=1", "data.sets.b.root=/b", "data.sets.b.weight=3"]
DISTILLATION = ["data=af2_distillation", "data.sets.experiments.root=/a", "data.sets.predictions.root=/b"]
PREPARE = ["command=prepare", *ROOT, "prepare.out=/y"]


def test_sets_are_named_and_typed_without_a_plus():
    sets = compose(MIXTURE).data.sets
    assert {name: (each.root, each.weight) for name, each in sets.items()} == {"a": ("/a", 1.0), "b": ("/b", 3.0)}
    assert all(isinstance(each, MixedSetConfig) for each in sets.values())


def test_distillation_as_alphafold():
    """AlphaFold 2, Suppl. 1.2.4 and 1.3: three quarters predictions, each with 1000 rows; experiments filtered."""
    sets = compose(DISTILLATION).data.sets
    assert (sets["experiments"].weight, sets["predictions"].weight) == (0.25, 0.75)
    assert (sets["predictions"].max_rows, sets["experiments"].max_resolution) == (1000, 9.0)


def test_experiments_take_a_mixture():
    config = compose(["+experiment=af2_initial", *DISTILLATION])
    check(config, 8)
    assert (config.data.crop, config.data.extra_msa) == (256, 1024)


def test_a_mixture_is_read_back(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(compose(MIXTURE)))
    assert load_saved(path) == compose(MIXTURE)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data=mixture"], "data=mixture has no sets: write data.sets.NAME.root=…"),
        (["data=mixture", "+data.sets.a.root=/a"], "write data.sets.a.root=/a, without the plus"),
        (["data=mixture", "data.sets.a=/a"], "data.sets.a=/a is no set: write data.sets.a.root=…"),
        ([*MIXTURE, "data.sets.a.rot=/a"], "There is no key data.sets.a.rot; did you mean data.sets.a.root?"),
        (["data=mixture", "data.sets.a.root=/a"], "data.sets.a.weight has no value (share of the examples"),
        (["data=mixture", "data.sets.a.weight=1"], "data.sets.a.root has no value"),
        ([*MIXTURE, "data.sets.a.weight=0"], "data.sets.a.weight=0.0 is out of range"),
        ([*MIXTURE, "data.sets.a.weight=x"], "data.sets.a.weight takes a number"),
        ([*MIXTURE, "data.sets.a.max_rows=0"], "data.sets.a.max_rows=0 is too small"),
        ([*MIXTURE, "data.sets.a.released_before=now"], "data.sets.a.released_before=now is no date"),
        (["data.max_rows=8"], "data.max_rows is a key of data=msa_dir"),
        ([*ROOT, "data.released_before=2018"], "data.released_before=2018 is no date: write it as 2018-04-30"),
        ([*ROOT, "data.templates_before=2018-04-30"], "changes nothing without data.template_structures"),
        ([*ROOT, "data.block_deletions=0", "data.block_fraction=0.5"], "changes nothing with data.block_deletions=0"),
        ([*ROOT, "data.eval_fraction=1"], "data.eval_fraction=1.0 is out of range: write a number in [0, 1)"),
        ([*ROOT, "prepare.out=/y"], "prepare.out changes nothing in command=train: leave it out, or write comm"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(overrides, sentence):
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides), 1)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (PREPARE[:-1], "needs the directory that it writes: write prepare.out=DIRECTORY"),
        ([*PREPARE, "prepare.shard=2/2"], "prepare.shard=2/2 is no part of the work: write i/n with i from 0 to n - 1"),
        ([*PREPARE, "prepare.shard=1"], "prepare.shard=1 is no part of the work"),
        ([*PREPARE, "data.crop=8"], "data.crop=8 changes nothing in command=prepare"),
        ([*PREPARE, "seed=8"], "seed=8 changes nothing in command=prepare"),
        (["command=prepare", *DISTILLATION, "prepare.out=/y"], "reads proteins from files, not data=mixture"),
        ([*PREPARE, "data=af2"], "data=af2 changes nothing in command=prepare, which takes prepare.… and data.root, "),
    ],
)
def test_prepare_takes_its_own_keys_only(overrides, sentence):
    with pytest.raises(ConfigError) as caught:
        check_prepare(compose(overrides), overrides)
    assert sentence in str(caught.value)


def test_the_part_of_a_preparation():
    assert shard(compose([*PREPARE, "prepare.shard=3/8"])) == (3, 8)
    check_prepare(compose([*PREPARE, "data.structures=/z"]), [*PREPARE, "data.structures=/z"])
