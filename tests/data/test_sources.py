"""Examples by index: pure functions, apart from the held-out ones, and all proteins in another order each epoch."""

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import made_proteins
import numpy as np
import pytest

from evotrain.compose import compose
from evotrain.data.sets.raw import RawSet
from evotrain.data.sets.selection import Selection
from evotrain.data.sources import HOST_KEYS, Example, Source, open_source
from evotrain.errors import DataError
from evotrain.prepare.command import prepare

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
        assert one.held_out_name(index) == str(one.evaluate(index).example["name"])
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
    assert {"name", "note", "skipped"} <= examples[0].keys()
    assert [(str(e["note"]), e["skipped"]) for e in examples] == [("", 0)] * 8


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


@pytest.fixture
def mixture(tmp_path):
    """Overrides of a mixture of two sets of ten proteins each, b thrice as heavy as a."""
    overrides = ["data=mixture", "data.crop=8", "data.msa_clusters=4", "data.block_deletions=0", "data.eval_examples=4"]
    for name, weight in (("b", 3), ("a", 1)):
        (tmp_path / name).mkdir()
        made_proteins.add(tmp_path / name, *(f"{name}{i}" for i in range(10)))
        overrides += [f"data.sets.{name}.root={tmp_path / name}", f"data.sets.{name}.weight={weight}"]
    return overrides


def test_a_mixture_shows_every_set_by_its_weight(mixture):
    found = open_source(compose([*mixture, "data.sets.b.eval_fraction=0"]))
    names = [found.name(i) for i in range(8000)]
    assert [str(found.train(i)["name"]) for i in range(20)] == names[:20]
    assert Counter(name[0] for name in names) == {"a": 2000, "b": 6000}
    assert {name for name in names if name[0] == "b"} == {f"b{i}" for i in range(10)}
    held_out = {str(found.evaluate(i).example["name"]) for i in range(found.held_out)}
    assert held_out == {found.held_out_name(i) for i in range(found.held_out)}
    assert not held_out & set(names)
    train, test = (len({name for name in group if name[0] == "a"}) for group in (names, held_out))
    assert found.description == (
        f"25% a: 10 proteins, {train} train, {test} held out (by id) + 75% b: 10 proteins, 10 train, 0 held out (by id)"
    )
    # A set goes through its proteins as often as every other one of its own.
    assert len(set(Counter(name for name in names[:4000] if name[0] == "b").values())) == 1


def test_held_out_examples_come_from_every_set_that_has_some(mixture):
    found = open_source(compose([*mixture, "data.sets.a.eval_fraction=0.5", "data.sets.b.eval_fraction=0.5"]))
    names = [str(found.evaluate(i).example["name"]) for i in range(found.held_out)]
    assert [name[0] for name in names] == ["a", "b", "a", "b"]
    assert names == sorted(names, key=lambda name: name[1])


def test_a_mixture_is_the_same_in_whichever_order_its_sets_are_written(mixture):
    other = [*mixture[:5], *mixture[7:], *mixture[5:7]]
    one, two = open_source(compose(mixture)), open_source(compose(other))
    assert one.fingerprints == two.fingerprints
    assert all(same(one.train(i), two.train(i)) for i in range(6))
    heavier = open_source(compose([*mixture, "data.sets.a.weight=2"]))
    assert heavier.fingerprints.keys() == one.fingerprints.keys() == {"data.sets.a.", "data.sets.b."}
    assert heavier.fingerprints["data.sets.a."] != one.fingerprints["data.sets.a."]
    assert heavier.fingerprints["data.sets.b."] == one.fingerprints["data.sets.b."]


def test_a_mixture_without_anything_held_out(mixture, tmp_path):
    nothing = [f"data.sets.{name}.eval_fraction=0" for name in "ab"]
    with pytest.raises(DataError) as caught:
        open_source(compose(mixture + nothing))
    assert str(caught.value) == (
        f"{tmp_path}/a, {tmp_path}/b: no protein is left to evaluate on (25% a: 10 proteins, 10 train, 0 held out (by "
        "id) + 75% b: 10 proteins, 10 train, 0 held out (by id)); change data.eval_fraction, or give index.csv a split "
        "column with train and val."
    )


def test_an_error_of_a_set_names_it(mixture, tmp_path):
    (tmp_path / "a" / "a0" / "msa.a3m").unlink()
    with pytest.raises(DataError, match=r"^data.sets.a: data.root=nowhere: no such directory"):
        open_source(compose([*mixture, "data.sets.a.root=nowhere"]))


def test_proteins_held_out_in_one_set_and_trained_on_in_another_are_counted(mixture, tmp_path):
    same_root = [f"data.sets.{name}.root={tmp_path / 'a'}" for name in "ab"]
    fractions = ["data.sets.a.eval_fraction=0.5", "data.sets.b.eval_fraction=0"]
    found = open_source(compose([*mixture, *same_root, *fractions]))
    assert "; of the held-out ids 5 are trained on in another set" in found.description


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["a,train", "b,train"], "no protein is left to evaluate on (2 proteins, 2 train, 0 held out (by split)); "
         "change data.eval_fraction, or give index.csv a split column with train and val."),
        (["a,val", "b,val"], "no protein is left to train on (2 proteins, 0 train, 2 held out (by split)); change"),
    ],
)  # fmt: skip
def test_a_split_with_an_empty_side(tmp_path, rows, sentence):
    made_proteins.add(tmp_path, "a", "b")
    made_proteins.add_index(tmp_path, "id,split", *rows)
    with pytest.raises(DataError) as caught:
        open_source(compose(["data=msa_dir", f"data.root={tmp_path}"]))
    assert str(caught.value).startswith(f"{tmp_path}: {sentence}")


def test_one_alignment_file(tmp_path):
    (tmp_path / "query.a3m").write_text(made_proteins.ALIGNMENT)
    (tmp_path / "query.pdb").write_text(made_proteins.STRUCTURE)
    overrides = ["data=msa_dir", f"data.root={tmp_path / 'query.a3m'}", "data.crop=8", "data.msa_clusters=4"]
    with pytest.raises(DataError, match=r"; write data.only=query to train on this one and evaluate on it too\.$"):
        open_source(compose(overrides))
    found = open_source(compose([*overrides, "data.only=query"]))
    assert [found.name(i) for i in range(3)] == ["query"] * 3
    assert str(found.evaluate(0).example["name"]) == "query"


def test_an_evaluation_filters_nothing(tmp_path, monkeypatch):
    """Nor does it need anything to train on, or a column of clusters."""
    made_proteins.add(tmp_path, "a", "b")
    made_proteins.add_index(tmp_path, "id,split", "a,val", "b,val")
    filters = ["released_before=2018-04-30", "max_resolution=9", "weigh_length=true", "weigh_cluster=true"]
    overrides = ["data=msa_dir", f"data.root={tmp_path}", *(f"data.{each}" for each in filters)]
    monkeypatch.setattr(RawSet, "facts", lambda *_: pytest.fail("a protein was read"))
    found = open_source(replace(compose(overrides), command="evaluate"))
    assert found.held_out == 2
    assert found.description == "2 proteins, 0 train, 2 held out (by split)"


@pytest.mark.parametrize("name", SOURCES)
def test_a_name_is_known_without_its_example(name):
    found = source(name)
    assert [found.name(i) for i in range(5)] == [str(found.train(i)["name"]) for i in range(5)]


def test_no_more_rows_than_asked_for():
    plain = ["data.block_deletions=0"]
    found = [source("msa_dir", *plain, *more).train(0)["msa_mask"] for more in ([], ["data.max_rows=5"])]
    assert [mask[0, :, 0].sum() for mask in found] == [8, 5]


@pytest.fixture(scope="module")
def raw_and_prepared(tmp_path_factory):
    """The same proteins twice; one of them cannot be read."""
    raw, prepared = (tmp_path_factory.mktemp("sets") / name for name in ("raw", "prepared"))
    raw.mkdir()
    names = [f"p{i:02}" for i in range(12)]
    made_proteins.add(raw, *names)
    (raw / "p03" / "msa.a3m").write_text("")
    made_proteins.add_index(raw, "id,cluster", *(f"{name},c{i // 2}" for i, name in enumerate(names)))
    asked = ["command=prepare", "data=msa_dir", f"data.root={raw}", f"prepare.out={prepared}", "prepare.workers=1"]
    prepare(compose(asked))
    return raw, prepared


@pytest.mark.parametrize(
    "settings",
    [[], ["data.weigh_length=true", "data.weigh_cluster=true"], ["data.min_plddt=50", "data.max_repeat=0.5"]],
)
def test_raw_and_prepared_files_give_the_same_examples(raw_and_prepared, settings):
    keys = ["data=msa_dir", "data.crop=8", "data.msa_clusters=4", "data.eval_fraction=0.4", *settings]
    raw, prepared = (open_source(compose([*keys, f"data.root={root}"])) for root in raw_and_prepared)
    assert raw.fingerprints == prepared.fingerprints
    assert raw.held_out == prepared.held_out
    for i in range(2 * 12):
        assert raw.name(i) == prepared.name(i)
        assert same(raw.train(i), prepared.train(i))
    for i in range(raw.held_out):
        assert same(raw.evaluate(i).example, prepared.evaluate(i).example)


def test_proteins_that_cannot_be_opened_in_time(mixture, monkeypatch):
    monkeypatch.setattr(Selection, "check", lambda _: threading.Event().wait())
    with pytest.raises(DataError, match=r"a\d or a\d of .*/a is not ready after 0\.001 minutes: look at its files"):
        open_source(compose([*mixture, "data.timeout=0.001"]))
