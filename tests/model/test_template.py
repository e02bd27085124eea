"""Templates: missing ones, features, dropout, memory, precision."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import Arrays
from quick_compile import QUICK
from trunk_parts import CONFIG, RESIDUES, TEMPLATES, arguments, float32, params, program

from evotrain.model.layers import Policy
from evotrain.model.template import TemplateBlock, pair_features


def without_templates(given: Arrays) -> Arrays:
    """No template: the features are zeros, as they are padded."""
    return {name: np.zeros_like(x) if name.startswith("template_") else x for name, x in given.items()}


@cache
def plain() -> Any:
    """(params, z, given) -> the update and its gradient by params and z, in float32."""
    module = program("template")

    def run(params: Arrays, z: jax.Array, given: Arrays) -> Any:
        update, pull_back = jax.vjp(lambda params, z: module(params, {"z": z}, given)["update"], params, z)
        return update, pull_back(jnp.ones_like(update))

    return jax.jit(run, compiler_options=QUICK)


def test_without_templates_neither_values_nor_gradients_depend_on_parameters():
    inputs, given = float32(arguments("template"))
    for features in (without_templates(given), given | {"template_mask": np.zeros(TEMPLATES, np.float32)}):
        assert not any(np.any(x) for x in jax.tree.leaves(plain()(float32(params("template")), inputs["z"], features)))


def test_a_missing_template_changes_nothing():
    inputs, given = float32(arguments("template"))
    changed = dict(given)
    changed["template_aatype"] = np.where(given["template_mask"][:, None] > 0, given["template_aatype"], 5)
    assert np.any(changed["template_aatype"] != given["template_aatype"])
    found, expected = (plain()(float32(params("template")), inputs["z"], features) for features in (changed, given))
    assert np.any(expected[0])
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_fully_masked_residues_give_finite_numbers():
    inputs, given = float32(arguments("template"))
    for name in ("pair_mask", "template_backbone_mask", "template_pseudo_beta_mask"):
        empty = given | {name: np.zeros_like(given[name])}
        assert all(
            np.all(np.isfinite(x)) for x in jax.tree.leaves(plain()(float32(params("template")), inputs["z"], empty))
        ), name


def test_pair_features_say_where_residues_are_and_which():
    _, given = float32(arguments("template"))
    names = ("aatype", "pseudo_beta", "pseudo_beta_mask", "backbone_mask")
    template = {name: given[f"template_{name}"][0] for name in names}
    template["aatype"] = np.arange(RESIDUES)
    template["backbone_mask"] = np.ones(RESIDUES, np.float32)
    template["backbone_mask"][4] = 0
    template["pseudo_beta"][:4] = np.array([[0, 0, 0], [3.3, 0, 0], [0, 4.6, 0], [0, 0, 100]], np.float32)
    features = np.asarray(pair_features(template, np.float32))
    assert features.shape == (RESIDUES, RESIDUES, 88)
    assert not features[4].any()
    assert not features[:, 4].any()
    bins = [np.flatnonzero(features[0, j, :39]).tolist() for j in range(4)]
    assert bins == [[], [0], [1], [38]]  # 3.25 Å is the start of the first, bins are 1.25 Å wide, the last is open
    assert np.flatnonzero(features[1, 2, 40:84]).tolist() == [2, 22 + 1]  # the column's residue, then the row's
    assert features[1, 2, 87] == 1


def test_dropout_is_shared_by_rows_and_for_the_ending_node_by_columns():
    shape = (20, 20, 6)
    config = replace(CONFIG, c_z=6)
    updates = {"attention_starting": 0, "attention_ending": 1, "triangle_outgoing": 0, "triangle_incoming": 0}
    block = nnx.eval_shape(lambda: TemplateBlock(config, policy=Policy(), rngs=nnx.Rngs(0)))
    for name, shared in (updates | {"pair_transition": None}).items():
        for part in (*updates, "pair_transition"):
            setattr(block, part, lambda *args, value=float(part == name): jnp.full(shape, value))
        found = np.asarray(*block(jnp.zeros(shape), jnp.ones(shape[:2]), jax.random.key(0)))
        if shared is None:
            assert np.all(found == 1)
            continue
        np.testing.assert_allclose(np.unique(found), [0, 1 / (1 - config.pair_dropout)], rtol=1e-6, err_msg=name)
        own = np.take(found, 0, axis=shared)
        assert np.all(found == np.expand_dims(own, shared)), name
        assert np.any(own != own[:1]), name


@pytest.mark.slow
def test_a_template_costs_the_memory_of_its_embedding_and_of_the_gradient_of_it():
    residues = 32
    z = jnp.zeros((residues, residues, CONFIG.c_z))
    sizes = {}
    for templates in (1, 5):
        _, given = float32(arguments("template", templates=templates, residues=residues))
        compiled = plain().lower(float32(params("template")), z, given).compile(QUICK)
        sizes[templates] = compiled.memory_analysis().temp_size_in_bytes
    embedding = 4 * residues**2 * CONFIG.template.c_t
    assert (sizes[5] - sizes[1]) / 4 <= 2 * embedding, sizes


def test_bfloat16_is_near_float32():
    inputs, given = float32(arguments("template"))
    wide, _ = plain()(float32(params("template")), inputs["z"], given)
    narrowed = jax.jit(program("template", jnp.bfloat16), compiler_options=QUICK)
    narrow = narrowed(float32(params("template")), {"z": jnp.asarray(inputs["z"], jnp.bfloat16)}, given)["update"]
    assert narrow.dtype == jnp.bfloat16
    assert np.abs(np.asarray(narrow, np.float32) - wide).max() < 0.03 * np.abs(wide).max()
