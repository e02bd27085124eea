"""DeepMind's Haiku modules of the Evoformer block as functions of (parameters, inputs, masks and labels).

Inputs are what is differentiated: m [S, N, c_m] and z [N, N, c_z].
"""

from functools import partial
from typing import Any

import haiku as hk
import jax
from alphafold.model import modules
from alphafold_reference import published_config, sized_config
from parity import Arrays, Program

from evotrain.config import ModelConfig

# Our name of a part of the block: the reference's class and name, and its arguments.
PARTS = {
    "row_attention": (
        modules.MSARowAttentionWithPairBias, "msa_row_attention_with_pair_bias", ("m", "msa_mask", "z"),
    ),
    "column_attention": (modules.MSAColumnAttention, "msa_column_attention", ("m", "msa_mask")),
    "msa_transition": (modules.Transition, "msa_transition", ("m", "msa_mask")),
    "outer_product_mean": (modules.OuterProductMean, "outer_product_mean", ("m", "msa_mask")),
    "triangle_outgoing": (modules.TriangleMultiplication, "triangle_multiplication_outgoing", ("z", "pair_mask")),
    "triangle_incoming": (modules.TriangleMultiplication, "triangle_multiplication_incoming", ("z", "pair_mask")),
    "attention_starting": (modules.TriangleAttention, "triangle_attention_starting_node", ("z", "pair_mask")),
    "attention_ending": (modules.TriangleAttention, "triangle_attention_ending_node", ("z", "pair_mask")),
    "pair_transition": (modules.Transition, "pair_transition", ("z", "pair_mask")),
}  # fmt: skip
HEADS = {"masked_msa": modules.MaskedMsaHead, "distogram": modules.DistogramHead}


def reference(name: str, config: ModelConfig) -> Program:
    """The reference for a part, a head, or the whole `block`."""
    if name == "block":
        forward = partial(_block, config)
    elif name in HEADS:
        forward = partial(_head, name)
    else:
        forward = partial(_part, name, config)
    transformed = hk.transform(forward)

    def run(params: Arrays, inputs: Arrays, given: Arrays) -> Arrays:
        with jax.numpy_rank_promotion("allow"):
            return transformed.apply(params, None, inputs, given)

    return run


def evoformer_config(config: ModelConfig) -> Any:
    """The reference's configuration of its blocks, with our sizes."""
    return sized_config(config).embeddings_and_evoformer.evoformer


def global_config() -> Any:
    """The reference's configuration of how all modules compute: without dropout."""
    return published_config("model_3_ptm").global_config


def _part(name: str, config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    cls, theirs, (x, *others) = PARTS[name]
    channels = (config.c_z,) if name == "outer_product_mean" else ()
    part = cls(evoformer_config(config)[theirs], global_config(), *channels, name=theirs)
    # `is_training` does not switch dropout on here, it switches the processing in chunks off.
    return {"update": part(inputs[x], *((inputs | given)[other] for other in others), is_training=True)}


def _block(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    block = modules.EvoformerIteration(evoformer_config(config), global_config(), is_extra_msa=False)
    masks = {"msa": given["msa_mask"], "pair": given["pair_mask"]}
    key = modules.prng.SafeKey(jax.random.key(0))
    out = block({"msa": inputs["m"], "pair": inputs["z"]}, masks, is_training=True, safe_key=key)
    return {"m": out["msa"], "z": out["pair"]}


def _head(name: str, inputs: Arrays, given: Arrays) -> Arrays:
    head = HEADS[name](published_config("model_3_ptm").heads[name], global_config())
    value = head({"msa": inputs["m"], "pair": inputs["z"]}, given, is_training=True)
    return {"logits": value["logits"], "loss": head.loss(value, given)["loss"]}
