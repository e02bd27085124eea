"""DeepMind's Haiku code around its Evoformer stack, by the names of `trunk_parts`, to compare ours with.

Names of modules are the published ones without `evoformer/`. What DeepMind writes out in one long function, and so
cannot be run by itself, is put together here from its layers and functions.
"""

from functools import partial
from typing import Any

import haiku as hk
import jax
from alphafold.model import common_modules, layer_stack, modules
from alphafold_reference import sized_config
from haiku_reference import evoformer_config, global_config
from parity import Arrays, Program

from evotrain.config import ModelConfig


def reference(name: str, config: ModelConfig) -> Program:
    """The reference for a part."""
    transformed = hk.transform(partial(PARTS[name], config))

    def run(params: Arrays, inputs: Arrays, given: Arrays) -> Arrays:
        with jax.numpy_rank_promotion("allow"):
            return transformed.apply(params, jax.random.key(0), inputs, given)

    return run


def _extra_msa(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    m = common_modules.Linear(config.extra_msa.c_m, name="extra_msa_activations")(
        modules.create_extra_msa_feature(given)
    )
    block = modules.EvoformerIteration(_extra_block(config), global_config(), is_extra_msa=True, name="extra_msa_stack")
    masks = {"msa": given["extra_msa_mask"], "pair": given["pair_mask"]}

    def one(representations: Arrays) -> Arrays:
        return block(representations, masks, is_training=True, safe_key=modules.prng.SafeKey(jax.random.key(0)))

    out = layer_stack.layer_stack(config.extra_msa.blocks)(one)({"msa": m, "pair": inputs["z"]})
    return {"z": out["pair"]}


def _global_column_attention(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    attention = modules.MSAColumnGlobalAttention(_extra_block(config).msa_column_attention, global_config())
    return {"update": attention(inputs["m"], given["extra_msa_mask"], is_training=True)}


def _extra_block(config: ModelConfig) -> Any:
    block = evoformer_config(config)
    for stack in ("row_attention_with_pair_bias", "column_attention"):
        block[f"msa_{stack}"].num_head = config.extra_msa.heads
    return block


def _template(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    embedding = modules.TemplateEmbedding(sized_config(config).embeddings_and_evoformer.template, global_config())
    features = {name: x for name, x in given.items() if name.startswith("template_")}
    return {"update": embedding(inputs["z"], features, given["pair_mask"], is_training=True)}


def _template_angles(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    linear = partial(common_modules.Linear, config.c_m, initializer="relu")
    hidden = jax.nn.relu(linear(name="template_single_embedding")(inputs["template_angle_feat"]))
    return {"rows": linear(name="template_projection")(hidden)}


def _recycling(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    beta = modules.pseudo_beta_fn(given["aatype"], given["positions"], None)
    distances = modules.dgram_from_positions(beta, **sized_config(config).embeddings_and_evoformer.prev_pos)
    norm = partial(common_modules.LayerNorm, axis=[-1], create_scale=True, create_offset=True)
    m = inputs["m"].at[0].add(norm(name="prev_msa_first_row_norm")(inputs["recycled_m"]))
    linear = common_modules.Linear(config.c_z, name="prev_pos_linear")
    z = inputs["z"] + linear(distances.astype(inputs["z"].dtype))
    return {"m": m, "z": z + norm(name="prev_pair_norm")(inputs["recycled_z"])}


PARTS = {
    "extra_msa": _extra_msa,
    "global_column_attention": _global_column_attention,
    "template": _template,
    "template_angles": _template_angles,
    "recycling": _recycling,
}
