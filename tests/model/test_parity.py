"""Outputs and gradients of the Evoformer block, its parts, and the heads that are read off it equal those of DeepMind's
Haiku modules with the same parameters."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.losses.representation import distogram_loss, masked_msa_loss
from evotrain.model.evoformer import EvoformerBlock
from evotrain.model.heads import DistogramHead, MaskedMSAHead
from evotrain.model.layers import Policy
from evotrain.model.network import bind

pytest.importorskip("alphafold", reason="the reference, DeepMind's code, is in the extra `test`")
from haiku_reference import HEADS, PARTS, reference
from parity import Arrays, Program, assert_equal_programs, random_params, reference_params

# All different, so that a transposition shows.
SEQUENCES, RESIDUES = 5, 7
CONFIG = ModelConfig(blocks=1, c_m=24, c_z=16, msa_heads=4, pair_heads=2, c_outer=6, c_triangle=12, transition_factor=3)
# An offset of what the pair bias is made of shifts all keys of a query alike, to which the softmax is blind.
OFFSET = "['{}msa_row_attention_with_pair_bias/feat_2d_norm']['offset']"
VANISHING = {
    "row_attention": frozenset({OFFSET.format("")}),
    "block": frozenset({OFFSET.format("evoformer_iteration/")}),
}
ARGUMENTS = dict.fromkeys(PARTS, ("z", "pair_mask")) | {
    "row_attention": ("m", "z", "msa_mask"),
    "column_attention": ("m", "msa_mask"),
    "msa_transition": ("m",),
    "outer_product_mean": ("m", "msa_mask"),
    "pair_transition": ("z",),
}


@pytest.mark.parametrize("name", [*PARTS, "block", *HEADS])
def test_module_equals_the_reference(name: str):
    _, shapes = build(name, np.dtype("float64"))
    inputs, given = inputs_and_labels()
    path, prefix = paths(name)
    assert_equal_programs(
        name,
        partial(ours, name),
        reference(name, CONFIG),
        random_params(shapes),
        partial(reference_params, ours=path, theirs=prefix),
        inputs,
        given,
        vanishing=VANISHING.get(name, frozenset()),
    )


def paths(name: str) -> tuple[str, str]:
    """Where our module stands in the network, and what the reference's names lack where it stands alone."""
    if name in HEADS:
        return name, ""
    if name == "block":
        return "evoformer/blocks", "evoformer"
    return f"evoformer/blocks/{name}", "evoformer/evoformer_iteration"


def build(name: str, dtype: np.dtype) -> tuple[nnx.GraphDef, Any]:
    """The structure of our module, computing in `dtype`, and the shapes of its parameters as a nested dict."""

    def make() -> nnx.Module:
        built = {"policy": Policy(dtype=dtype), "rngs": nnx.Rngs(0)}
        if name in HEADS:
            return {"masked_msa": MaskedMSAHead, "distogram": DistogramHead}[name](CONFIG, **built)
        block = EvoformerBlock(CONFIG, **built)
        return block if name == "block" else getattr(block, name)

    graphdef, shapes = nnx.split(nnx.eval_shape(make), nnx.Param)
    return graphdef, nnx.to_pure_dict(shapes)


def ours(name: str, dtype: np.dtype) -> Program:
    """Our module, computing in `dtype`."""
    graphdef, _ = build(name, dtype)

    def run(params: Arrays, inputs: Arrays, given: Arrays) -> Arrays:
        module = bind(graphdef, params)
        if name == "masked_msa":
            logits = module(inputs["m"])
            return {"logits": logits, "loss": masked_msa_loss(logits, given["true_msa"], given["bert_mask"])[0]}
        if name == "distogram":
            logits = module(inputs["z"])
            return {"logits": logits, "loss": distogram_loss(logits, given["pseudo_beta"], given["pseudo_beta_mask"])}
        if name == "block":
            return dict(zip("mz", module(inputs["m"], inputs["z"], given["msa_mask"], given["pair_mask"]), strict=True))
        return {"update": module(*((inputs | given)[argument] for argument in ARGUMENTS[name]))}

    return run


def inputs_and_labels() -> tuple[Arrays, Arrays]:
    """Random representations, labels, and ragged masks: the fourth sequence and the third residue are padding."""
    rng = np.random.default_rng(0)
    seq_mask = np.array([1, 1, 0, 1, 1, 1, 1.0])
    msa_mask = seq_mask[None] * (rng.random((SEQUENCES, RESIDUES)) < 0.7)
    msa_mask[0], msa_mask[3] = seq_mask, 0.0
    inputs = {
        "m": rng.normal(size=(SEQUENCES, RESIDUES, CONFIG.c_m)),
        "z": rng.normal(size=(RESIDUES, RESIDUES, CONFIG.c_z)),
    }
    given = {
        "msa_mask": msa_mask,
        "pair_mask": seq_mask[:, None] * seq_mask[None],
        "true_msa": rng.integers(0, 23, (SEQUENCES, RESIDUES)),
        "bert_mask": msa_mask * (rng.random((SEQUENCES, RESIDUES)) < 0.5),
        "pseudo_beta": 8.0 * rng.normal(size=(RESIDUES, 3)),
        "pseudo_beta_mask": seq_mask,
    }
    return inputs, given
