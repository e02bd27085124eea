"""Reading AlphaFold 2's published parameters, and telling from their names and shapes which model they are of.

No jax here: the command line asks before the devices are made.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from evotrain.errors import ConfigError
from evotrain.published_names import PREFIX

# An .npz file of published names, or the same in memory: {module//parameter: array} or {module: {parameter: array}}.
Source = str | Path | Mapping[str, Any]
Arrays = dict[str, np.ndarray]

MULTIMER = "/~_relative_encoding/"  # a module that only AlphaFold-Multimer has
CLIPPED_POSITIONS = 65  # classes of relative positions, 2·32 + 1; sinusoids have another number of channels
PUBLISHED_RECYCLES, PUBLISHED_LAYERS = 3, 8  # which parameters do not tell


def infer_model(source: Source) -> dict[str, Any]:
    """The keys of `model` that published parameters fit, as in {"blocks": 48, "template.blocks": 2, …}.

    Recycles and the iterations of the structure module are not told by parameters: these are the published model's.

    Raises:
      ConfigError: `source` cannot be read, or lacks parameters that every model has.
    """
    return model_keys(read_published(source), title_of(source))


def model_keys(arrays: Arrays, title: str) -> dict[str, Any]:
    def size(name: str, dim: int) -> int:
        array = arrays.get(name)
        if array is None or array.ndim <= dim:
            raise ConfigError(f"{title} lacks {name}, which every AlphaFold 2 has: fetch or write it anew.")
        return array.shape[dim]

    def has(module: str) -> bool:
        return any(name.startswith(module) for name in arrays)

    block, extra = "evoformer/evoformer_iteration", "evoformer/extra_msa_stack"
    row_attention = "msa_row_attention_with_pair_bias/attention//query_w"
    pair_attention = "triangle_attention_starting_node/attention//query_w"
    c_m, c_z = size("evoformer/preprocess_1d//bias", 0), size("evoformer/left_single//bias", 0)
    keys: dict[str, Any] = {
        "blocks": size(f"{block}/{row_attention}", 0),
        "c_m": c_m,
        "c_z": c_z,
        "msa_heads": size(f"{block}/{row_attention}", 2),
        "msa_head_dim": size(f"{block}/{row_attention}", 3),
        "pair_heads": size(f"{block}/{pair_attention}", 2),
        "pair_head_dim": size(f"{block}/{pair_attention}", 3),
        "c_outer": size(f"{block}/outer_product_mean/left_projection//bias", 1),
        "c_triangle": size(f"{block}/triangle_multiplication_outgoing/left_projection//bias", 1),
        "transition_factor": size(f"{block}/pair_transition/transition1//bias", 1) // c_z,
        "position": "clipped" if size("evoformer/pair_activiations//weights", 0) == CLIPPED_POSITIONS else "sinusoidal",
        "recycles": PUBLISHED_RECYCLES if has("evoformer/prev_pos_linear") else 0,
        "extra_msa.blocks": 0,
        "template.blocks": 0,
        "structure.layers": PUBLISHED_LAYERS if has("structure_module/") else 0,
    }
    if has(extra):
        keys["extra_msa.blocks"] = size(f"{extra}/{row_attention}", 0)
        keys["extra_msa.c_m"] = size("evoformer/extra_msa_activations//bias", 0)
        keys["extra_msa.heads"] = size(f"{extra}/{row_attention}", 2)
    if has("evoformer/template_embedding/"):
        single = "evoformer/template_embedding/single_template_embedding"
        stack = f"{single}/template_pair_stack/__layer_stack_no_state"
        keys["template.blocks"] = size(f"{stack}/{pair_attention}", 0)
        keys["template.c_t"] = c_t = size(f"{single}/embedding2d//bias", 0)
        keys["template.heads"] = size(f"{stack}/{pair_attention}", 2)
        keys["template.transition_factor"] = size(f"{stack}/pair_transition/transition1//bias", 1) // c_t
        keys["template.angles"] = has("evoformer/template_projection")
    if has("structure_module/"):
        keys |= _structure_keys(size)
        keys["structure.aligned_error"] = has("predicted_aligned_error_head/")
    return keys


def _structure_keys(size: Callable[[str, int], int]) -> dict[str, int]:
    attention = "structure_module/fold_iteration/invariant_point_attention"
    heads = size(f"{attention}//trainable_point_weights", 0)
    query_points = size(f"{attention}/q_point_local//bias", 0) // (3 * heads)
    return {
        "structure.c_s": size("evoformer/single_activations//bias", 0),
        "structure.heads": heads,
        "structure.scalar_dim": size(f"{attention}/q_scalar//bias", 0) // heads,
        "structure.query_points": query_points,
        "structure.value_points": size(f"{attention}/kv_point_local//bias", 0) // (3 * heads) - query_points,
        "structure.c_sidechain": size("structure_module/fold_iteration/rigid_sidechain/input_projection//bias", 0),
        "structure.c_confidence": size("predicted_lddt_head/act_0//bias", 0),
    }


def read_published(source: Source) -> Arrays:
    """The arrays by published name, without the prefix that all of them share."""
    title = title_of(source)
    if isinstance(source, Mapping):
        arrays = {
            (f"{name}//{parameter}" if parameter else name): np.asarray(array)
            for name, below in source.items()
            for parameter, array in (below.items() if isinstance(below, Mapping) else [("", below)])
        }
    else:
        try:
            with np.load(source, allow_pickle=False) as file:
                arrays = dict(file)
        except FileNotFoundError:
            raise ConfigError(
                f"There is no file {source}: name AlphaFold 2's parameters, as in params_model_1.npz."
            ) from None
        except (OSError, ValueError, TypeError, EOFError, BadZipFile, ZlibError):
            raise ConfigError(f"{source} cannot be read as an .npz file: fetch or write it anew.") from None
    for name in arrays:
        if not name.startswith(PREFIX):
            raise ConfigError(
                f"{title} has {name}, but AlphaFold 2's parameters begin with {PREFIX}: name a file of them, as in "
                "params_model_1.npz."
            )
        if MULTIMER in name:
            raise ConfigError(
                f"{title} holds parameters of AlphaFold-Multimer: name a monomer's, as in params_model_1_ptm.npz."
            )
    return {name.removeprefix(PREFIX): array for name, array in arrays.items()}


def title_of(source: Source) -> str:
    return "The tree of parameters" if isinstance(source, Mapping) else str(source)
