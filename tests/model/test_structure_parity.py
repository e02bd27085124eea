"""Outputs and gradients of the structure module and its parts equal those of DeepMind's with the same parameters."""

from functools import partial

import numpy as np
import pytest
from parity import assert_equal_programs, random_params, reference_params
from structure_parts import CONFIG, INPUTS, PATHS, build, inputs_and_features, ours

pytest.importorskip("alphafold", reason="the reference, DeepMind's code, is in the extra `test`")
import haiku_structure

# What the reference's names lack where a part stands alone.
PREFIXES = dict.fromkeys(INPUTS, "structure_module") | dict.fromkeys(
    ("attention", "sidechain"), "structure_module/fold_iteration"
)
# The bias of what is added to the logits shifts all keys of a query alike, to which the softmax is blind.
BIAS = "['{}invariant_point_attention/attention_2d']['bias']"
VANISHING = {
    "attention": frozenset({BIAS.format("")}),
    "fold": frozenset({BIAS.format("fold_iteration/")}),
    "structure": frozenset({BIAS.format("fold_iteration/")}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_part_equals_the_reference(name: str):
    inputs, given = inputs_and_features(np.float64)
    assert_equal_programs(
        name,
        partial(ours, name),
        haiku_structure.reference(getattr(haiku_structure, name), CONFIG),
        random_params(build(name, np.dtype("float64"))[1]),
        partial(reference_params, ours=PATHS[name], theirs=PREFIXES[name]),
        {argument: inputs[argument] for argument in INPUTS[name]},
        given,
        vanishing=VANISHING.get(name, frozenset()),
    )
