"""Sizes that devices can split evenly: which dimensions are padded, and that dropout stays what it was."""

import jax
import numpy as np
import pytest
from random_protein import random_protein

from evotrain.data.features.example import ExampleShape, example
from evotrain.data.features.padding import DIMENSIONS, pad, padded_size
from evotrain.data.generated.synthetic import gaussian_example

# Sizes that no other dimension has.
N, S, E, T = 41, 43, 47, 4
SHAPE = ExampleShape(crop=N, msa_clusters=S, extra_msa=E, templates=T, passes=2, structure=True, mask_fraction=0.15)
DEVICES = 6


def examples() -> list[dict[str, np.ndarray]]:
    """All features that networks read."""
    folding = example(random_protein(100, N, templates=T), np.random.default_rng(0), SHAPE)
    return [folding, gaussian_example(0, 0, residues=N, sequences=S, c_m=3, c_z=2)]


def split_sizes(shape: tuple[int, ...], templates: int) -> tuple[int, ...]:
    """The shape of a feature that `DEVICES` devices can split: sequences together with the rows made of templates."""
    sizes = {N: 42, S: 48 - templates, E: 48}
    return tuple(sizes.get(size, size) for size in shape)


def test_what_devices_split_is_padded_with_zeros():
    for features, templates in zip(examples(), (T, 0), strict=True):
        found = pad(features, DEVICES)
        assert found.keys() == features.keys()
        for name, x in features.items():
            assert np.shape(found[name]) == split_sizes(np.shape(x), templates), name
            widths = [(0, new - old) for new, old in zip(np.shape(found[name]), np.shape(x), strict=True)]
            np.testing.assert_array_equal(found[name], np.pad(x, widths) if widths else x, err_msg=name)
            assert found[name].dtype == x.dtype


def test_every_feature_with_a_name_in_the_table_exists():
    assert set(DIMENSIONS) <= {name for features in examples() for name in features}


def test_a_batch_is_padded_as_its_examples_and_strings_are_left_alone():
    features, _ = examples()
    batch = {name: np.stack([x, x]) for name, x in features.items()} | {"name": np.array(["a", "b"])}
    found = pad(batch, DEVICES)
    assert found.pop("name").tolist() == ["a", "b"]
    for name, x in pad(features, DEVICES).items():
        np.testing.assert_array_equal(found[name], np.stack([x, x]), err_msg=name)


def test_what_divides_is_not_copied():
    features, _ = examples()
    assert all(x is features[name] for name, x in pad(features, 1).items())
    again = pad(features, DEVICES)
    assert all(x is again[name] for name, x in pad(again, DEVICES).items())


@pytest.mark.parametrize(("size", "devices", "padded"), [(0, 4, 0), (1, 4, 4), (4, 4, 4), (5, 4, 8), (7, 1, 7)])
def test_padded_size(size: int, devices: int, padded: int):
    assert padded_size(size, devices) == padded


@pytest.mark.parametrize("shape", [(1, N, 8), (N, 1, 8), (N, 8)])
def test_dropout_of_a_longer_chain_begins_as_that_of_the_shorter(shape: tuple[int, ...]):
    """Else padding would change which numbers are dropped."""
    longer = tuple(N + 7 if size == N else size for size in shape)
    kept, expected = (jax.random.bernoulli(jax.random.key(3), 0.75, sizes) for sizes in (longer, shape))
    np.testing.assert_array_equal(kept[tuple(map(slice, shape))], expected)


def test_keys_of_more_templates_begin_with_those_of_fewer():
    np.testing.assert_array_equal(
        jax.random.key_data(jax.random.split(jax.random.key(3), 8))[:T],
        jax.random.key_data(jax.random.split(jax.random.key(3), T)),
    )
