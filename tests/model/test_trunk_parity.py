"""Outputs and gradients of the modules around the Evoformer stack equal those of DeepMind's Haiku code."""

from functools import partial

import pytest

pytest.importorskip("alphafold", reason="the reference, DeepMind's code, is in the extra `test`")
from haiku_trunk import PARTS, reference
from parity import assert_equal_programs, reference_params
from trunk_parts import CONFIG, arguments, params, program

# The path of a part in our network, and what the published names have in front of those of the reference's module.
PATHS = {
    "extra_msa": ("extra_msa", "evoformer"),
    "global_column_attention": ("extra_msa/stack/blocks/column_attention", "evoformer/extra_msa_stack"),
    "template": ("template", "evoformer"),
    "template_angles": ("template_angles", "evoformer"),
    "recycling": ("recycling", "evoformer"),
}
# An offset of what the pair bias is made of shifts all keys of a query alike, to which the softmax is blind.
VANISHING = {"extra_msa": frozenset({"['extra_msa_stack/msa_row_attention_with_pair_bias/feat_2d_norm']['offset']"})}


@pytest.mark.parametrize("name", PARTS)
def test_module_equals_the_reference(name: str):
    path, prefix = PATHS[name]
    assert_equal_programs(
        name,
        partial(program, name),
        reference(name, CONFIG),
        params(name),
        partial(reference_params, ours=path, theirs=prefix),
        *arguments(name),
        vanishing=VANISHING.get(name, frozenset()),
    )
