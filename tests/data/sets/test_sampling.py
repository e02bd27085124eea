import pickle
from collections import Counter

import numpy as np
import pytest

from evotrain.data.sets.facts import Facts
from evotrain.data.sets.sampling import Mixture, Order, acceptance, filters, needs_facts
from evotrain.data_config import ProteinSetConfig


def _accept(members=1, config=(), **facts):
    known = {"length": 100, "rows": 5, "resolution": 2.0, "release_date": "2010-01-01", "repeat": 0.1} | facts
    return acceptance(Facts(**known), members, ProteinSetConfig(root="x", **dict(config)))


@pytest.mark.parametrize(("length", "expected"), [(1, 0.5), (256, 0.5), (384, 0.75), (512, 1), (2000, 1)])
def test_the_weight_of_a_length(length, expected):
    assert _accept(length=length, config={"weigh_length": True}) == expected
    assert _accept(length=length, members=4, config={"weigh_length": True, "weigh_cluster": True}) == expected / 4
    assert _accept(length=length, members=4) == 1


@pytest.mark.parametrize(
    ("config", "passing", "failing"),
    [
        ({"max_resolution": 9.0}, {"resolution": 9.0}, {"resolution": 9.1}),
        ({"max_resolution": 9.0}, {"resolution": 0.0}, {"resolution": 30.0}),
        ({"max_repeat": 0.8}, {"repeat": 0.8}, {"repeat": 0.81}),
        ({"released_before": "2018-04-30"}, {"release_date": "2018-04-29"}, {"release_date": "2018-04-30"}),
        ({"released_before": "2018-04-30"}, {"release_date": "1999-12-31"}, {"release_date": ""}),
    ],
)
def test_filters(config, passing, failing):
    assert _accept(config=config, **passing) == 1
    assert _accept(config=config, **failing) == 0
    assert _accept(**failing) == 1
    assert needs_facts(ProteinSetConfig(root="x", **config))
    (name, value), *_ = config.items()
    assert filters(ProteinSetConfig(root="x", **config)) == [f"data.{name}={value}"]


def test_facts_are_not_needed_without_filters_and_lengths():
    assert not needs_facts(ProteinSetConfig(root="x"))
    clusters = ProteinSetConfig(root="x", weigh_cluster=True)
    assert not needs_facts(clusters)
    assert acceptance(None, 5, clusters) == 0.2


@pytest.mark.parametrize("count", [1, 2, 7, 180])
def test_without_weights_an_epoch_is_a_plain_shuffle(count):
    order = Order(3, np.ones(count))
    epochs = [[order[epoch * count + i] for i in range(count)] for epoch in range(12)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1 or count == 1


def test_all_shuffles_are_equally_likely():
    order = Order(0, np.ones(3))
    counts = Counter(tuple(order[3 * epoch + i] for i in range(3)) for epoch in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 4 * np.sqrt(1000 * 5 / 6) for count in counts.values())


ACCEPTANCE = np.array([1.0, 0.5, 0.75, 0.1, 1 / 3, 0.02, 0.9])


def test_an_order_is_a_function_of_seed_and_index():
    order = Order(5, ACCEPTANCE)
    first = [order[i] for i in range(200)]
    places = np.random.default_rng(0).permutation(200)
    again = Order(5, ACCEPTANCE)
    assert [again[i] for i in places] == [first[i] for i in places]
    assert [pickle.loads(pickle.dumps(again))[i] for i in range(200)] == first
    other = Order(6, ACCEPTANCE)
    assert [other[i] for i in range(200)] != first
    far = 3_000_000_000
    assert [Order(5, ACCEPTANCE)[i] for i in (far, far + 1)] == [order[far], order[far + 1]]


def test_each_protein_is_accepted_with_its_probability():
    order = Order(1, ACCEPTANCE)
    counts = np.bincount([order[i] for i in range(50_000)], minlength=len(ACCEPTANCE))
    np.testing.assert_allclose(counts / counts[0], ACCEPTANCE, rtol=0.01)


def test_an_epoch_is_the_same_whatever_its_neighbours_and_accepts_each_protein_at_most_once():
    """In any one epoch a protein is accepted with its probability over seeds, so the first is like the others."""
    accepted = np.zeros(len(ACCEPTANCE))
    seeds = 4000
    for seed in range(seeds):
        order = Order(seed, ACCEPTANCE)
        end, _ = order._epoch(1)
        epoch = [order[i] for i in range(end)]
        assert len(set(epoch)) == len(epoch)
        accepted[epoch] += 1
    error = np.sqrt(ACCEPTANCE * (1 - ACCEPTANCE) / seeds)
    assert (np.abs(accepted / seeds - ACCEPTANCE) <= 4 * error).all()


def test_epochs_that_accept_nothing_are_passed_over():
    order = Order(0, [0.001])
    assert [order[i] for i in (0, 1, 2, 1000)] == [0] * 4


@pytest.mark.parametrize("weights", [[1], [0.75, 0.25], [3, 1], [1, 2, 3.5, 0.1], [1e-3, 1]])
def test_a_mixture_has_exact_shares_and_goes_through_every_set_in_order(weights):
    mixture = Mixture(weights)
    drawn = [mixture[i] for i in range(10_000)]
    for number, weight in enumerate(weights):
        places = [place for of, place in drawn if of == number]
        assert places == list(range(len(places)))
        assert len(places) == pytest.approx(10_000 * weight / sum(weights), abs=len(weights))
    assert [mixture[np.int64(i)] for i in (0, 9_999)] == [drawn[0], drawn[9_999]]
    number, place = mixture[3_000_000_000_000]
    assert place == pytest.approx(3e12 * weights[number] / sum(weights), rel=1e-6)


def test_every_stretch_of_a_mixture_has_its_share():
    mixture = Mixture([0.25, 0.75])
    numbers = np.array([mixture[i][0] for i in range(400)])
    assert set(np.convolve(numbers, np.ones(4), "valid")) == {3}
