"""The recycling embedding: what it leaves alone, and what it starts from."""

import jax
import numpy as np
from quick_compile import QUICK
from trunk_parts import RESIDUES, SEQUENCES, arguments, params, program

from evotrain.data import protein
from evotrain.model.recycling import pseudo_beta


def test_only_the_row_of_the_query_changes():
    inputs, given = arguments("recycling")
    found = jax.jit(program("recycling"), compiler_options=QUICK)(params("recycling"), inputs, given)
    changed = np.any(found["m"] != inputs["m"].astype(np.float32), axis=(1, 2))
    assert changed.tolist() == [True] + [False] * (SEQUENCES - 1)


def test_before_the_first_pass_positions_are_in_no_bin():
    inputs, given = arguments("recycling")
    run = jax.jit(program("recycling"), compiler_options=QUICK)
    weights = params("recycling")
    start = inputs | {name: np.zeros_like(inputs[name]) for name in ("recycled_m", "recycled_z")}
    z = run(weights, start, given | {"positions": np.zeros_like(given["positions"])})["z"]
    offset = weights["norm_z"]["offset"] + weights["distances"]["bias"]
    np.testing.assert_allclose(z, inputs["z"] + offset[None, None], rtol=1e-5, atol=1e-5)


def test_pseudo_beta_is_that_of_the_features():
    _, given = arguments("recycling")
    expected, _ = protein.pseudo_beta(given["aatype"], given["positions"], np.ones((RESIDUES, 37)))
    np.testing.assert_array_equal(pseudo_beta(given["positions"].astype(np.float32), given["aatype"]), expected)
