"""Examples by index: pure functions, apart from the held-out ones, and all proteins in another order each epoch."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evotrain.compose import compose
from evotrain.data.sources import HOST_KEYS, Example, Source, open_source

SOURCES = {
    "synthetic": ["data=synthetic"],
    "coevolution": ["data=coevolution"],
    "msa_dir": ["data=msa_dir", f"data.root={Path(__file__).parents[2] / 'data' / 'sample'}"],
}
EPOCH = 4  # training proteins of the sample


def source(name: str, *overrides: str) -> Source:
    return open_source(compose([*SOURCES[name], "data.crop=24", "data.msa_clusters=8", *overrides]))


def same(a: Example, b: Example) -> bool:
    assert a.keys() == b.keys()
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", SOURCES)
def test_an_example_is_a_function_of_seed_and_index(name):
    one, other = source(name), source(name)
    for index in (7, 0, 7, 12):
        assert same(one.train(index), other.train(index))
        assert not same(one.train(index), one.train(index + EPOCH * 3))
        assert not same(one.train(index), source(name, "seed=1").train(index))


@pytest.mark.parametrize("name", SOURCES)
def test_held_out_examples_are_the_same_for_every_seed(name):
    one, other = source(name), source(name, "seed=1")
    for index in range(2):
        assert same(one.evaluate(index).example, other.evaluate(index).example)
    assert not same(one.evaluate(0).example, one.evaluate(1).example)


@pytest.mark.parametrize("name", SOURCES)
def test_held_out_examples_are_not_trained_on(name):
    found = source(name)
    key = "msa" if name == "synthetic" else "true_msa"
    trained = [found.train(index)[key].tobytes() for index in range(12)]
    held_out = [found.evaluate(index).example[key].tobytes() for index in range(2)]
    assert not set(trained) & set(held_out)


@pytest.mark.parametrize("name", SOURCES)
def test_examples_have_fixed_shapes(name):
    found = source(name)
    examples = [*(found.train(i) for i in range(6)), *(found.evaluate(i).example for i in range(2))]
    shapes = [{k: (np.shape(x), x.dtype) for k, x in e.items() if k not in HOST_KEYS} for e in examples]
    assert all(shape == shapes[0] for shape in shapes)
    assert {"name", "note", "substituted"} <= examples[0].keys()
    assert [(str(e["note"]), e["substituted"]) for e in examples] == [("", 0)] * 8


@pytest.mark.parametrize("name", ["coevolution", "msa_dir"])
def test_examples_hold_what_the_model_eats(name):
    """Also where only Cα and Cβ are known, and no experiment has a resolution."""
    config = compose([*SOURCES[name], "data.crop=24", "data.msa_clusters=8"])
    model = replace(config.model, recycles=1, structure=replace(config.model.structure, layers=2))
    found = open_source(replace(config, model=model, data=replace(config.data, extra_msa=16, templates=2)))
    for features in (found.train(0), found.evaluate(0).example, found.evaluate(0).shuffled):
        assert features["msa_feat"].shape == (2, 8, 24, 49)
        assert features["extra_msa"].shape == (2, 16, 24)
        assert features["template_angle_feat"].shape == (2, 24, 57)
        assert not features["template_mask"].any()
        assert features["all_atom_mask"].sum() > 24
        assert not features["rigidgroups_gt_exists"].any()
        assert features["resolution"] == 0
        assert all(np.isfinite(x).all() for key, x in features.items() if key not in HOST_KEYS)


@pytest.mark.parametrize("name", ["coevolution", "msa_dir"])
def test_shuffled_columns_keep_the_query_and_the_compositions(name):
    """The alignment has no more rows than the example, so that both hold all of it."""
    held_out = source(name, "data.msa_clusters=64").evaluate(0)
    (plain,), (shuffled,) = held_out.example["true_msa"], held_out.shuffled["true_msa"]
    rows = int(held_out.example["msa_mask"][0, :, 0].sum())
    assert rows == len(held_out.msa)
    np.testing.assert_array_equal(plain[0], shuffled[0])
    assert (plain != shuffled).any()
    for column in range(24):
        assert Counter(plain[:rows, column].tolist()) == Counter(shuffled[:rows, column].tolist())
    for label in ("pseudo_beta", "pseudo_beta_mask", "aatype", "residue_index", "bert_mask"):
        np.testing.assert_array_equal(held_out.example[label], held_out.shuffled[label])


def test_the_alignment_for_the_baseline_is_that_of_the_crop():
    held_out = source("msa_dir", "data.msa_clusters=64").evaluate(0)
    rows = len(held_out.msa)
    assert held_out.msa.shape[1] == 24
    plain = sorted(held_out.example["true_msa"][0, :rows].tolist())
    assert plain == sorted(held_out.msa.tolist())


def test_every_epoch_has_all_proteins_in_another_order():
    found = source("msa_dir")
    epochs = [[str(found.train(EPOCH * epoch + i)["name"]) for i in range(EPOCH)] for epoch in range(6)]
    assert {frozenset(epoch) for epoch in epochs} == {frozenset(f"sample{i}" for i in range(EPOCH))}
    assert len({tuple(epoch) for epoch in epochs}) > 1
    orders = [str(source("msa_dir", "seed=1").train(i)["name"]) for i in range(3 * EPOCH)]
    assert orders != [name for epoch in epochs[:3] for name in epoch]


def test_a_protein_is_masked_and_cropped_anew_in_every_epoch():
    found = source("msa_dir")
    visits = [e for e in (found.train(i) for i in range(4 * EPOCH)) if str(e["name"]) == "sample0"]
    assert len(visits) == 4
    assert len({visit["bert_mask"].tobytes() for visit in visits}) == 4
