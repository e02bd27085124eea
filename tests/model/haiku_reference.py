"""DeepMind's Haiku modules as functions of (inputs, labels and masks), and their names for our parameters.

Inputs are what is differentiated: m [S, N, c_m] and z [N, N, c_z].
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import haiku as hk
import jax
from alphafold.model import config as alphafold_config
from alphafold.model import modules
from flax.traverse_util import flatten_dict

from evotrain.config import ModelConfig

Arrays = dict[str, Any]

# The reference's names below a module, and ours.
ATTENTION = {
    "attention/query_w": "attention/query/weights",
    "attention/key_w": "attention/key/weights",
    "attention/value_w": "attention/value/weights",
    "attention/gating_w": "attention/gate/weights",
    "attention/gating_b": "attention/gate/bias",
    "attention/output_w": "attention/output/weights",
    "attention/output_b": "attention/output/bias",
}
PAIR_BIAS = {"feat_2d_weights": "pair_bias/project/weights"}
ROW_ATTENTION = ATTENTION | PAIR_BIAS | {"query_norm": "norm_m", "feat_2d_norm": "norm_z"}
COLUMN_ATTENTION = ATTENTION | {"query_norm": "norm"}
TRIANGLE_ATTENTION = COLUMN_ATTENTION | PAIR_BIAS
TRANSITION = {"input_layer_norm": "norm", "transition1": "expand", "transition2": "contract"}
OUTER_PRODUCT_MEAN = {
    "layer_norm_input": "norm",
    "left_projection": "left",
    "right_projection": "right",
    "output_w": "output/weights",
    "output_b": "output/bias",
}
TRIANGLE_MULTIPLICATION = {
    "layer_norm_input": "norm_in",
    "left_projection": "left",
    "right_projection": "right",
    "left_gate": "left_gate",
    "right_gate": "right_gate",
    "center_layer_norm": "norm_out",
    "output_projection": "output",
    "gating_linear": "gate",
}
# Our name of a part of the block: the reference's class and name, its arguments, and the names of its parameters.
PARTS = {
    "row_attention": (
        modules.MSARowAttentionWithPairBias, "msa_row_attention_with_pair_bias", ("m", "msa_mask", "z"), ROW_ATTENTION,
    ),
    "column_attention": (modules.MSAColumnAttention, "msa_column_attention", ("m", "msa_mask"), COLUMN_ATTENTION),
    "msa_transition": (modules.Transition, "msa_transition", ("m", "msa_mask"), TRANSITION),
    "outer_product_mean": (modules.OuterProductMean, "outer_product_mean", ("m", "msa_mask"), OUTER_PRODUCT_MEAN),
    "triangle_outgoing": (
        modules.TriangleMultiplication, "triangle_multiplication_outgoing", ("z", "pair_mask"), TRIANGLE_MULTIPLICATION,
    ),
    "triangle_incoming": (
        modules.TriangleMultiplication, "triangle_multiplication_incoming", ("z", "pair_mask"), TRIANGLE_MULTIPLICATION,
    ),
    "attention_starting": (
        modules.TriangleAttention, "triangle_attention_starting_node", ("z", "pair_mask"), TRIANGLE_ATTENTION,
    ),
    "attention_ending": (
        modules.TriangleAttention, "triangle_attention_ending_node", ("z", "pair_mask"), TRIANGLE_ATTENTION,
    ),
    "pair_transition": (modules.Transition, "pair_transition", ("z", "pair_mask"), TRANSITION),
}  # fmt: skip
HEADS = {"masked_msa": (modules.MaskedMsaHead, "logits"), "distogram": (modules.DistogramHead, "half_logits")}


def reference(name: str, config: ModelConfig) -> Callable[[Arrays, Arrays, Arrays], Arrays]:
    """The reference's (parameters, inputs, labels and masks) -> outputs, for a part, a head, or the whole `block`."""
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


def reference_params(name: str, params: Arrays) -> Arrays:
    """Our parameters under the reference's names, {module: {parameter: array}}; each has exactly one."""
    flat = flatten_dict(params, sep="/")
    renamed: Arrays = {}
    for ours, theirs in _names(name).items():
        for path in [path for path in flat if path == ours or path.startswith(f"{ours}/")]:
            module, parameter = (theirs + path.removeprefix(ours)).rsplit("/", 1)
            renamed.setdefault(module, {})[parameter] = flat.pop(path)
    assert not flat, f"parameters without a name in the reference: {list(flat)}"
    return renamed


def _names(name: str) -> dict[str, str]:
    if name in HEADS:
        layer = HEADS[name][1]
        return {layer: f"head/{layer}"}
    if name in PARTS:
        _, theirs, _, names = PARTS[name]
        return {ours: f"{theirs}/{their}" for their, ours in names.items()}
    return {f"{part}/{ours}": f"block/{their}" for part in PARTS for ours, their in _names(part).items()}


def _block_config(config: ModelConfig) -> Any:
    block = alphafold_config.model_config("model_3_ptm").model.embeddings_and_evoformer.evoformer
    assert not block.outer_product_mean.first
    for stack in ("row_attention_with_pair_bias", "column_attention"):
        block[f"msa_{stack}"].num_head = config.msa_heads
    for node in ("starting", "ending"):
        block[f"triangle_attention_{node}_node"].num_head = config.pair_heads
    for edges in ("outgoing", "incoming"):
        block[f"triangle_multiplication_{edges}"].fuse_projection_weights = False
        block[f"triangle_multiplication_{edges}"].num_intermediate_channel = config.c_triangle
    for kind in ("msa", "pair"):
        block[f"{kind}_transition"].num_intermediate_factor = config.transition_factor
    block.outer_product_mean.num_outer_channel = config.c_outer
    return block


def _global_config() -> Any:
    config = alphafold_config.model_config("model_3_ptm").model.global_config
    config.deterministic = True  # no dropout
    return config


def _part(name: str, config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    cls, theirs, (x, *others), _ = PARTS[name]
    channels = (config.c_z,) if name == "outer_product_mean" else ()
    part = cls(_block_config(config)[theirs], _global_config(), *channels, name=theirs)
    # `is_training` does not switch dropout on here, it switches the processing in chunks off.
    return {"update": part(inputs[x], *((inputs | given)[other] for other in others), is_training=True)}


def _block(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    block = modules.EvoformerIteration(_block_config(config), _global_config(), is_extra_msa=False, name="block")
    masks = {"msa": given["msa_mask"], "pair": given["pair_mask"]}
    key = modules.prng.SafeKey(jax.random.key(0))
    out = block({"msa": inputs["m"], "pair": inputs["z"]}, masks, is_training=True, safe_key=key)
    return {"m": out["msa"], "z": out["pair"]}


def _head(name: str, inputs: Arrays, given: Arrays) -> Arrays:
    head = HEADS[name][0](alphafold_config.model_config("model_3_ptm").model.heads[name], _global_config(), name="head")
    value = head({"msa": inputs["m"], "pair": inputs["z"]}, given, is_training=True)
    return {"logits": value["logits"], "loss": head.loss(value, given)["loss"]}
