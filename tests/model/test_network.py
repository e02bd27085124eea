"""The networks as a whole: padding, masks, and their parameters as plain trees."""

from functools import cache, partial
from typing import Any

import jax
import numpy as np
import pytest
from quick_compile import QUICK

from evotrain.config import Config, ModelConfig
from evotrain.data.features.padding import pad
from evotrain.data.generated.synthetic import gaussian_example
from evotrain.data_config import CoevolutionConfig, SyntheticConfig
from evotrain.model.network import bind, initial_params, network

SEQUENCES, RESIDUES = 4, 6
SIZES = {"c_m": 8, "c_z": 6, "msa_heads": 2, "pair_heads": 2, "c_outer": 3, "c_triangle": 5, "transition_factor": 2}
TRUNK = Config(
    name="trunk",
    steps=1,
    batch_size=1,
    eval_every=0,
    model=ModelConfig(blocks=2, init="lecun", **SIZES),
    data=CoevolutionConfig(crop=RESIDUES, msa_clusters=SEQUENCES),
)
REGRESSION = Config(
    name="regression",
    steps=1,
    batch_size=1,
    eval_every=0,
    model=ModelConfig(blocks=1, **SIZES),
    data=SyntheticConfig(crop=RESIDUES, msa_clusters=SEQUENCES),
)


@cache
def trunk_params() -> Any:
    """Parameters of the trunk, none of them zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), network(TRUNK)[1])


def example() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    msa, pair = (1, SEQUENCES, RESIDUES), (RESIDUES, 3)
    floats = {
        "seq_mask": np.ones(RESIDUES),
        "target_feat": rng.normal(size=(RESIDUES, 22)),
        "msa_feat": rng.normal(size=(*msa, 49)),
        "msa_mask": rng.random(msa) < 0.8,
        "bert_mask": rng.random(msa) < 0.4,
        "pseudo_beta": 8 * rng.normal(size=pair),
        "pseudo_beta_mask": rng.random(RESIDUES) < 0.8,
    }
    aatype = rng.integers(0, 20, RESIDUES, np.int32)
    labels = {"residue_index": np.arange(RESIDUES, dtype=np.int32), "true_msa": rng.integers(0, 23, msa, np.int32)}
    labels["aatype"] = aatype
    return {name: x.astype(np.float32) for name, x in floats.items()} | labels


def padded(example: dict[str, np.ndarray], sequences: int, residues: int) -> dict[str, np.ndarray]:
    """The example with so many more of both, their features garbage and their masks zero."""
    rng = np.random.default_rng(1)

    def pad(name: str, x: np.ndarray) -> np.ndarray:
        widths = [(0, residues)] + [(0, 0)] * (x.ndim - 1)
        if name in ("msa_feat", "msa_mask", "bert_mask", "true_msa"):
            widths = [(0, 0), (0, sequences), (0, residues)] + [(0, 0)] * (x.ndim - 3)
        out = np.pad(x, widths)
        if not name.endswith("mask"):
            beyond = np.pad(np.zeros(x.shape, bool), widths, constant_values=True)
            out[beyond] = rng.integers(0, 20, beyond.sum())
        return out

    return {name: pad(name, x) for name, x in example.items()}


def test_padding_changes_nothing_on_the_valid_part():
    graphdef, _ = network(TRUNK)

    @partial(jax.jit, compiler_options=QUICK)
    def run(example: dict[str, jax.Array]) -> Any:
        return bind(graphdef, trunk_params()).predict(example)

    metrics, maps, residues = run(example())
    wide_metrics, wide_maps, _ = run(padded(example(), sequences=3, residues=2))
    assert residues == {}
    assert wide_maps["expected_distance"].shape == (RESIDUES + 2, RESIDUES + 2)
    narrowed = (wide_metrics, {name: x[:RESIDUES, :RESIDUES] for name, x in wide_maps.items()})
    for a, b in zip(jax.tree.leaves(narrowed), jax.tree.leaves((metrics, maps)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("config", [TRUNK, REGRESSION], ids=["trunk", "regression"])
def test_initial_parameters_have_the_shapes_of_the_network(config: Config):
    _, shapes = network(config)
    params = jax.eval_shape(lambda: initial_params(config, jax.random.key(0)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert {x.shape[0] for x in jax.tree.leaves(params["evoformer"]["blocks"])} == {config.model.blocks}


def gaussian() -> dict[str, np.ndarray]:
    return gaussian_example(0, 0, residues=RESIDUES, sequences=SEQUENCES, c_m=SIZES["c_m"], c_z=SIZES["c_z"])


def test_fresh_regression_is_the_mean_square_of_its_input():
    graphdef, shapes = network(REGRESSION)
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)  # final layers start at zero
    example = gaussian()
    metrics, _, _ = jax.jit(bind(graphdef, params).predict)(example)
    np.testing.assert_allclose(metrics["loss"], np.mean(example["msa"] ** 2) + np.mean(example["pair"] ** 2), rtol=1e-5)


def test_padding_is_not_regressed():
    rng = np.random.default_rng(0)
    graphdef, shapes = network(REGRESSION)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), shapes)
    predict = jax.jit(bind(graphdef, params).predict, compiler_options=QUICK)
    losses = [predict(pad(gaussian(), devices))[0]["loss"] for devices in (1, 5)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
