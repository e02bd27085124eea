"""Families as a benchmark: what the knobs do to them, what they leave alone, and how well analysis then does."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from evotrain.checks import check
from evotrain.compose import compose, conf_dir
from evotrain.contacts import CHANCE, contact_precision, mean_precision
from evotrain.data.generated.coevolution import (
    PAIR_TABLE,
    contact_map,
    family_size,
    generate_family,
    shuffle_columns,
)
from evotrain.data.protein import CB_ATOM, Protein, pseudo_beta
from evotrain.data.sources import Source, open_source
from evotrain.data_config import CoevolutionConfig
from evotrain.dca import contact_scores

FAMILIES = 16
PRECISION = "contact/precision_at_L"
PLAIN = CoevolutionConfig(crop=16, msa_clusters=8, length=64, depth=64)
HARD = ["data=coevolution_hard", "data.crop=40", "data.msa_clusters=24"]


def dca(**knobs: float) -> dict[str, float]:
    """Precision of direct coupling analysis over the first families of one stream."""
    config = replace(PLAIN, **knobs)
    return mean_precision([score(generate_family((0, 2), index, config)) for index in range(FAMILIES)])


def score(protein: Protein) -> dict[str, float]:
    positions, mask = pseudo_beta(protein.msa[0], protein.atom_positions, protein.atom_mask)
    return contact_precision(contact_scores(protein.msa), positions, mask, protein.residue_index)


def source(*overrides: str) -> Source:
    return open_source(compose(list(overrides)))


@pytest.mark.parametrize(
    ("knob", "values"),
    [("depth", (16, 64, 256)), ("coupling", (0.7, 1.0, 1.4)), ("branch_sweeps", (0.25, 0.5, 2.0))],
)
def test_more_of_a_knob_makes_dca_more_precise(knob, values):
    results = [dca(**{knob: value}) for value in values]
    for harder, easier in itertools.pairwise(results):
        assert easier[PRECISION] > harder[PRECISION] + 0.05
        np.testing.assert_allclose(easier[CHANCE], harder[CHANCE], rtol=0.1)


def test_in_longer_families_weak_couplings_are_harder_to_find():
    short, long = dca(coupling=1.0), dca(coupling=1.0, length=128)
    assert long[CHANCE] < 0.7 * short[CHANCE]
    assert long[PRECISION] < short[PRECISION] - 0.02


def test_a_hard_family_still_holds_its_answer():
    config = compose(["data=coevolution_hard"]).data
    families = [generate_family((0, 2), index, config) for index in range(6)]
    found = mean_precision([score(protein) for protein in families])
    shuffled = mean_precision([score(shuffle_columns(p, np.random.default_rng(k))) for k, p in enumerate(families)])
    assert found[PRECISION] > 4 * found[CHANCE]
    assert found[PRECISION] > 2 * shuffled[PRECISION]
    assert found[PRECISION] < 0.3


def test_what_one_family_tells_about_another_falls_with_their_noise():
    """Touching residues are those less that the table of all families favours."""

    def favour(noise: float) -> float:
        config = replace(PLAIN, family_noise=noise)
        energies = []
        for index in range(FAMILIES):
            protein = generate_family((0, 2), index, config)
            i, j = np.nonzero(contact_map(protein.atom_positions[:, CB_ATOM]))
            energies.append(PAIR_TABLE[protein.msa[:, i], protein.msa[:, j]].mean())
        return float(np.mean(energies))

    assert favour(0.0) > 1.5 * favour(4.0) > 0


def test_null_is_the_size_of_an_example():
    assert family_size(CoevolutionConfig(crop=20, msa_clusters=9)) == (20, 9)
    assert family_size(CoevolutionConfig(crop=20, msa_clusters=9, length=31, depth=4)) == (31, 4)
    implied = generate_family(0, 0, CoevolutionConfig(crop=20, msa_clusters=9))
    said = generate_family(0, 0, CoevolutionConfig(crop=7, msa_clusters=3, length=20, depth=9))
    np.testing.assert_array_equal(implied.msa, said.msa)
    np.testing.assert_array_equal(implied.atom_positions, said.atom_positions)


def test_families_depend_on_the_knobs_alone():
    other = replace(
        PLAIN, crop=48, msa_clusters=5, extra_msa=7, templates=2, eval_examples=3, workers=2, prefetch=1, timeout=1.0,
        mask_fraction=0.5,
    )  # fmt: skip
    first, second = generate_family((0, 2), 0, PLAIN), generate_family((0, 2), 0, other)
    np.testing.assert_array_equal(first.msa, second.msa)
    np.testing.assert_array_equal(first.atom_positions, second.atom_positions)
    for knob, value in {"length": 60, "depth": 60, "coupling": 1.0, "family_noise": 0.5, "branch_sweeps": 1.0}.items():
        changed = generate_family((0, 2), 0, replace(PLAIN, **{knob: value}))
        assert not np.array_equal(first.msa, changed.msa)


def test_held_out_families_are_the_same_for_every_seed_and_number_of_examples():
    one, other = source(*HARD, "seed=1"), source(*HARD, "seed=2", "data.eval_examples=2")
    for index in range(2):
        np.testing.assert_array_equal(one.evaluate(index).msa, other.evaluate(index).msa)
        assert one.evaluate(index).example["name"] == other.evaluate(index).example["name"]
    assert one.train(0)["name"] != other.train(0)["name"]


def test_an_example_shows_a_crop_and_as_many_rows_as_it_has_clusters():
    found = source(*HARD)
    held_out = found.evaluate(0)
    assert held_out.msa.shape == (128, 40)
    example = held_out.example
    assert example["seq_mask"].sum() == 40
    assert example["msa_mask"].sum() == 24 * 40
    first, last = example["residue_index"][[0, -1]]
    assert 0 <= first < last < 128
    assert {int(found.train(index)["residue_index"][0]) for index in range(5)} != {0}
    # Rows that are no cluster centre show in the profiles of the clusters, AlphaFold's features 25 to 47.
    profile = example["msa_feat"][0, :, :, 25:48]
    assert ((profile > 0) & (profile < 1)).any()


def test_families_smaller_than_an_example_are_padded():
    example = source("data.length=20", "data.depth=10", "data.crop=48", "data.msa_clusters=64").train(0)
    assert example["seq_mask"].sum() == 20
    assert example["msa_mask"].sum() == 10 * 20


def test_every_trial_of_the_sweep_passes_the_checks():
    swept = OmegaConf.load(conf_dir() / "sweep" / "difficulty.yaml").hydra.sweeper.params
    trials = [[f"{key}={value}" for value in str(values).split(",")] for key, values in swept.items()]
    configs = [compose(list(overrides)) for overrides in itertools.product(*trials)]
    assert len({(config.data.depth, config.data.branch_sweeps) for config in configs}) == len(configs) == 6
    for config in configs:
        check(config, 1)
