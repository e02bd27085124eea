"""The whole network, recycled twice, equals DeepMind's with the same parameters, published by name.

`pytest -rP` prints the errors.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from evotrain.model.network import RESAMPLED, Choices, Prediction, bind
from evotrain.published_names import PREFIX
from evotrain.weights import load_alphafold, save_alphafold

pytest.importorskip("alphafold", reason="the reference, DeepMind's code, is in the extra `test`")
from alphafold_reference import network as reference_network
from alphafold_reference import nothing_recycled, one_pass_features, one_pass_labels, sized_config
from network_example import (
    CONFIG,
    PADDED,
    PASSES,
    RESIDUES,
    ROWS,
    abstract_network,
    example,
    labels,
    pass_of,
    published,
)
from quick_compile import QUICK

OUTPUT_ERROR, POSITION_ERROR, ROUNDING = 1e-4, 1e-3, 1e-5  # relative to the largest of an array; Å; relative
VANISHING = 1e-6  # a gradient below this share of the largest one is nothing but rounding
OF_REFERENCE = 1.25  # two bfloat16 programs round differently: neither is nearer to float32 in every array
# An offset of what a bias is made of shifts all keys of a query alike, to which the softmax is blind.
BLIND = (
    "evoformer/evoformer_iteration/msa_row_attention_with_pair_bias/feat_2d_norm//offset",
    "evoformer/extra_msa_stack/msa_row_attention_with_pair_bias/feat_2d_norm//offset",
    "structure_module/fold_iteration/invariant_point_attention/attention_2d//bias",
)
Arrays = dict[str, Any]


def test_predictions_of_every_pass_equal_the_reference():
    features, _ = example()
    for i, (mine, (_, its)) in enumerate(zip(passes(features, "float32"), reference_passes("float32"), strict=True)):
        errors = {name: relative_error(mine[name], x) for name, x in where_it_counts(its, features).items()}
        distance = np.abs(mine["positions"] - where_it_counts(its, features)["positions"]).max()
        worst = max(errors, key=errors.__getitem__)
        print(f"pass {i}: outputs {errors[worst]:.1e} ({worst}), positions {distance:.1e} Å")
        assert max(errors.values()) < OUTPUT_ERROR
        assert distance < POSITION_ERROR


def test_bfloat16_is_as_near_to_float32_as_the_reference():
    features, _ = example()
    exact, its = (where_it_counts(reference_passes(dtype)[0][1], features) for dtype in ("float32", "bfloat16"))
    mine = passes(features, "bfloat16")[0]
    for name, x in exact.items():
        ours, theirs = deviation(mine[name], x), deviation(its[name], x)
        print(f"{name:15s} ours {ours:.1e}, the reference's {theirs:.1e}")
        assert ours < OF_REFERENCE * theirs


@pytest.mark.slow
def test_loss_and_gradients_equal_the_reference():
    (features, templates), i = example(), PASSES - 1
    graphdef = nnx.graphdef(abstract_network("float32"))
    choices = Choices(recycles=jnp.int32(i), clamped=jnp.float32(1.0))
    shown, seen = features | labels(), pass_of(features, i)
    its_shown = one_pass_features(seen, templates) | one_pass_labels(pass_of(labels(), i), seen["aatype"])
    its_loss, (recycled, _) = reference_network(sized_config(CONFIG), loss=True).apply, reference_passes("float32")[i]

    @partial(jax.jit, compiler_options=QUICK)
    def ours(params: Arrays) -> Any:
        return jax.value_and_grad(lambda x: bind(graphdef, x).loss(shown, None, choices), has_aux=True)(params)

    @partial(jax.jit, compiler_options=QUICK)
    def theirs(params: Arrays) -> Any:
        key = jax.random.key(0)
        return jax.value_and_grad(lambda x: its_loss(x, key, its_shown, recycled), has_aux=True)(params)

    (loss, parts), gradients = jax.device_get(ours(load_alphafold(published(), CONFIG)))
    (expected, _), its_gradients = jax.device_get(theirs(unflatten_dict(published(), sep="//")))
    assert all(part > 0 for name, part in parts.items() if name.startswith("loss/"))
    assert relative_error(loss, expected) < ROUNDING

    gradients, its_gradients = save_alphafold(gradients), flatten_dict(its_gradients, sep="//")
    sizes = {name: np.abs(x).max() for name, x in its_gradients.items()}
    vanishing = {name for name, size in sizes.items() if size < VANISHING * max(sizes.values())}
    assert vanishing == {f"{PREFIX}{name}" for name in BLIND}
    errors = {name: relative_error(gradients[name], its_gradients[name]) for name in sizes.keys() - vanishing}
    print(f"loss {relative_error(loss, expected):.1e}, gradients {max(errors.values()):.1e}")
    assert max(errors.values()) < OUTPUT_ERROR
    assert all(np.abs(gradients[name]).max() < VANISHING * max(sizes.values()) for name in vanishing)


def test_padding_changes_nothing():
    features, _ = example()

    def cropped(name: str, x: np.ndarray) -> np.ndarray:
        """Without the last sequence, extra sequence or template, and without the last residues."""
        dim = int(name in RESAMPLED)
        if kind(name) in ROWS:
            x, dim = x.take(range(ROWS[kind(name)] - 1), dim), dim + 1
        return x.take(range(RESIDUES - PADDED), dim) if dim < x.ndim else x

    without = {name: cropped(name, x) for name, x in features.items()}
    assert_equal(passes(without, "float32"), passes(features, "float32"))


def test_the_order_of_sequences_and_templates_changes_nothing():
    features, _ = example()
    rng = np.random.default_rng(3)
    orders = {name: rng.permutation(rows) for name, rows in ROWS.items()}
    orders["msa"] = np.append(0, 1 + rng.permutation(ROWS["msa"] - 1))  # the query stays first

    def permuted(name: str, x: np.ndarray) -> np.ndarray:
        return x.take(orders[kind(name)], int(name in RESAMPLED)) if kind(name) in ROWS else x

    expected = passes(features, "float32")
    for outputs in expected:  # of the last sequence, which is padding, there are none
        outputs["masked_msa"] = outputs["masked_msa"][[i for i in orders["msa"] if i < ROWS["msa"] - 1]]
    assert_equal(passes({name: permuted(name, x) for name, x in features.items()}, "float32"), expected)


def assert_equal(ours: list[Arrays], expected: list[Arrays]) -> None:
    for mine, its in zip(ours, expected, strict=True):
        assert max(relative_error(mine[name], x) for name, x in its.items()) < ROUNDING


def kind(feature: str) -> str:
    return feature.partition("_")[0]


@cache
def program(dtype: str) -> Any:
    """Our pass: (parameters, features, recycled) -> prediction."""
    graphdef = nnx.graphdef(abstract_network(dtype))
    return jax.jit(lambda params, *args: bind(graphdef, params)(*args), compiler_options=QUICK)


def passes(features: Arrays, dtype: str) -> list[Arrays]:
    """What each pass of ours predicts where there is no padding."""
    params, found = load_alphafold(published(), CONFIG), []
    recycled = abstract_network(dtype).nothing_recycled(len(features["aatype"]))
    for i in range(PASSES):
        prediction = program(dtype)(params, pass_of(features, i), recycled)
        recycled = prediction.recycled
        found.append(where_it_counts(by_name(prediction), features))
    return found


def by_name(prediction: Prediction) -> Arrays:
    return {
        "masked_msa": prediction.masked_msa,
        "distogram": prediction.distogram,
        "plddt": prediction.plddt,
        "resolved": prediction.resolved,
        "aligned_error": prediction.aligned_error,
        "m_first": prediction.recycled.m_first,
        "z": prediction.recycled.z,
        "positions": prediction.recycled.positions,
    }


@cache
def reference_passes(dtype: str) -> list[tuple[Arrays, Arrays]]:
    """What each pass of the reference starts from, and what it predicts."""
    (features, templates), params = example(), unflatten_dict(published(), sep="//")
    recycled, found = nothing_recycled(RESIDUES, CONFIG), []
    config = sized_config(CONFIG)
    config.global_config.bfloat16 = dtype == "bfloat16"
    one_pass = jax.jit(reference_network(config).apply, compiler_options=QUICK)
    for i in range(PASSES):
        out = one_pass(params, jax.random.key(0), one_pass_features(pass_of(features, i), templates), recycled)
        outputs = {
            "masked_msa": out["masked_msa"]["logits"],
            "distogram": out["distogram"]["logits"],
            "plddt": out["predicted_lddt"]["logits"],
            "resolved": out["experimentally_resolved"]["logits"],
            "aligned_error": out["predicted_aligned_error"]["logits"],
            "m_first": out["representations"]["msa_first_row"],
            "z": out["representations"]["pair"],
            "positions": out["structure_module"]["final_atom_positions"],
        }
        found.append((recycled, outputs))
        recycled = dict(zip(recycled, (outputs[name] for name in ("m_first", "z", "positions")), strict=True))
    return found


def where_it_counts(outputs: Arrays, features: Arrays) -> Arrays:
    """The outputs of the residues and of the sequences that are no padding."""
    residues = np.flatnonzero(features["seq_mask"])
    sequences = np.flatnonzero(features["msa_mask"].any((0, 2)))
    pairs = dict.fromkeys(("distogram", "aligned_error", "z"), np.ix_(residues, residues))
    chosen = pairs | {"masked_msa": np.ix_(sequences, residues)}
    return {name: x[chosen.get(name, residues)] for name, x in jax.device_get(outputs).items()}


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(a - b)) / np.mean(np.square(b))))
