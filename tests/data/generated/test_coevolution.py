from dataclasses import replace

import numpy as np
import pytest

from evotrain.contacts import contact_precision, mean_precision
from evotrain.data.generated.coevolution import PAIR_TABLE, contact_map, generate_family, shuffle_columns
from evotrain.data.generated.synthetic import gaussian_example
from evotrain.data.protein import CA_ATOM, CB_ATOM, pseudo_beta
from evotrain.data_config import CoevolutionConfig
from evotrain.dca import contact_scores

CONFIG = CoevolutionConfig(crop=64, msa_clusters=64)


@pytest.fixture(scope="module")
def families():
    return [generate_family((0, 1), index, CONFIG) for index in range(12)]


def precision(proteins):
    rows = []
    for protein in proteins:
        positions, mask = pseudo_beta(protein.msa[0], protein.atom_positions, protein.atom_mask)
        rows.append(contact_precision(contact_scores(protein.msa), positions, mask, protein.residue_index))
    return mean_precision(rows)


def residue_covariance(msa):
    """How strongly two columns co-vary: [N, N]."""
    indicator = np.eye(20)[msa]
    indicator = indicator - indicator.mean(0)
    covariance = np.einsum("mia,mjb->ijab", indicator, indicator, optimize=True) / len(msa)
    return np.sqrt((covariance**2).sum((2, 3)))


def test_a_family_is_a_function_of_seed_and_index(families):
    again = generate_family((0, 1), 3, CONFIG)
    np.testing.assert_array_equal(again.msa, families[3].msa)
    np.testing.assert_array_equal(again.atom_positions, families[3].atom_positions)
    assert again.name == families[3].name
    for other in (generate_family((0, 2), 3, CONFIG), generate_family((0, 1), 4, CONFIG)):
        assert not np.array_equal(other.msa, again.msa)
        assert not np.array_equal(other.atom_positions, again.atom_positions)
    np.testing.assert_array_equal(generate_family(7, 0, CONFIG).msa, generate_family((7,), 0, CONFIG).msa)


@pytest.mark.parametrize(("crop", "rows"), [(1, 1), (5, 3), (30, 17)])
def test_shapes_of_any_size(crop, rows):
    protein = generate_family(0, 0, CoevolutionConfig(crop=crop, msa_clusters=rows))
    assert protein.msa.shape == protein.deletions.shape == (rows, crop)
    assert protein.msa.dtype == np.uint8
    assert protein.msa.max() < 20
    assert not protein.deletions.any()
    assert protein.atom_positions.shape == (crop, 37, 3)
    assert protein.atom_positions.dtype == protein.atom_mask.dtype == np.float32
    assert protein.atom_mask[:, [CA_ATOM, CB_ATOM]].all()
    assert protein.atom_mask.sum() == 2 * crop
    np.testing.assert_array_equal(protein.residue_index, np.arange(crop))


def test_the_shared_table_is_symmetric_and_leaves_single_columns_alone():
    np.testing.assert_array_equal(PAIR_TABLE, PAIR_TABLE.T)
    np.testing.assert_allclose(PAIR_TABLE.sum(0), 0, atol=1e-5)
    assert abs(PAIR_TABLE.std() - 1) < 1e-5
    # One constant direction, and 19 of equal strength: no residue wins everywhere.
    strengths = np.sort(np.abs(np.linalg.eigvalsh(PAIR_TABLE.astype(np.float64))))
    np.testing.assert_allclose(strengths[0], 0, atol=1e-5)
    np.testing.assert_allclose(strengths[1:], 20 / np.sqrt(19), rtol=1e-5)


def test_touching_pairs_take_the_residues_that_the_table_favours(families):
    touching, apart = [], []
    for protein in families:
        contacts = contact_map(protein.atom_positions[:, CB_ATOM])
        i, j = np.triu_indices(64, 4)
        energy = PAIR_TABLE[protein.msa[:, i], protein.msa[:, j]].mean(0)
        touching.append(energy[contacts[i, j]].mean())
        apart.append(energy[~contacts[i, j]].mean())
    # In units of the table's standard deviation. Pairs that share a neighbour are favoured a little as well.
    assert np.mean(touching) > np.mean(apart) + 0.5
    assert abs(np.mean(apart)) < 0.3


def test_touching_columns_covary_more(families):
    i, j = np.triu_indices(64, 24)
    higher = 0
    for protein in families:
        contacts = contact_map(protein.atom_positions[:, CB_ATOM])[i, j]
        covariance = residue_covariance(protein.msa)[i, j]
        higher += covariance[contacts].mean() > covariance[~contacts].mean()
    assert higher >= len(families) - 1


def nearest_identity(msa):
    """Mean over the rows of the share of columns that agree with the most similar other row."""
    identity = (msa[:, None] == msa[None]).mean(-1)
    np.fill_diagonal(identity, 0)
    return identity.max(1).mean()


def test_rows_are_related_but_differ(families):
    for protein in families:
        assert len(np.unique(protein.msa, axis=0)) > 60
    # With shuffled columns the rows are as similar as the columns' compositions make them, and no more.
    related = np.mean([nearest_identity(p.msa) for p in families])
    unrelated = np.mean([nearest_identity(shuffle_columns(p, np.random.default_rng(0)).msa) for p in families])
    assert related > unrelated + 0.02


def test_longer_branches_make_less_related_rows():
    def relatedness(sweeps):
        config = CoevolutionConfig(crop=32, msa_clusters=16, branch_sweeps=sweeps)
        return np.mean([nearest_identity(generate_family(0, index, config).msa) for index in range(10)])

    assert relatedness(0.25) > relatedness(1.0) + 0.1 > relatedness(4.0) + 0.1


def test_dca_finds_contacts_and_shuffling_destroys_them(families):
    whole = precision(families)
    shuffled = precision([shuffle_columns(p, np.random.default_rng(k)) for k, p in enumerate(families)])
    chance = whole["contact/chance"]
    assert whole["contact/precision_at_L"] > 3 * chance
    assert whole["contact/precision_at_L"] < 0.6
    assert shuffled["contact/precision_at_L"] < 2 * chance


def test_without_couplings_dca_finds_nothing():
    config = CoevolutionConfig(crop=64, msa_clusters=64, coupling=0.0)
    result = precision([generate_family(0, index, config) for index in range(12)])
    assert result["contact/precision_at_L"] < 2 * result["contact/chance"]


def test_shuffling_keeps_query_and_compositions_and_moves_deletions_along(families):
    rng = np.random.default_rng(0)
    protein = families[0]
    # Deletions that name their residue and column, so that a pair torn apart shows.
    marks = protein.msa.astype(np.int32) * 1000 + np.arange(64)
    shuffled = shuffle_columns(replace(protein, deletions=marks), rng)
    np.testing.assert_array_equal(shuffled.msa[0], protein.msa[0])
    np.testing.assert_array_equal(np.sort(shuffled.msa, 0), np.sort(protein.msa, 0))
    np.testing.assert_array_equal(shuffled.deletions, shuffled.msa.astype(np.int32) * 1000 + np.arange(64))
    assert (shuffled.msa != protein.msa).mean() > 0.2
    assert shuffled.msa.dtype == protein.msa.dtype


def test_gaussian_example_is_a_function_of_seed_and_index():
    sizes = {"residues": 10, "sequences": 6, "c_m": 4, "c_z": 3}
    first, again, other = (gaussian_example(1, index, **sizes) for index in (0, 0, 1))
    shapes = {"msa": (6, 10, 4), "pair": (10, 10, 3), "msa_mask": (6, 10), "pair_mask": (10, 10)}
    assert {name: value.shape for name, value in first.items()} == shapes
    for name, value in first.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, again[name])
    assert not np.array_equal(first["msa"], other["msa"])
    assert first["msa_mask"].all()
    assert first["pair_mask"].all()
