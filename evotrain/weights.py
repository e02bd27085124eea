"""AlphaFold 2's published parameters as ours, and ours as they are published."""

import os
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.errors import ConfigError
from evotrain.explain import spell
from evotrain.model.layers import Policy
from evotrain.model.network import AlphaFold
from evotrain.published import Arrays, Source, model_keys, read_published, title_of
from evotrain.published_names import PREFIX, published_name
from evotrain.tree_names import named_leaves, nested_dicts


def load_alphafold(source: Source, config: ModelConfig) -> dict[str, Any]:
    """The parameters of `AlphaFold(config)` as a nested dict of float32 arrays, from published ones.

    Every array of `source` is used, and every parameter of the model is found with its shape.

    Raises:
      ConfigError: `source` cannot be read, or is of another model than `config`.
    """
    arrays, title = read_published(source), title_of(source)
    _check_model(model_keys(arrays, title), config, title)
    params: Arrays = {}
    for path, made in named_leaves(_shapes(config)).items():
        name = published_name(path)
        if name not in arrays:
            raise ConfigError(f"{title} lacks {name}, which the model reads: it is incomplete, fetch or write it anew.")
        if arrays[name].shape != made.shape:
            raise ConfigError(
                f"{title} has {name} in the shape {arrays[name].shape}, but the model needs {made.shape}: it is of "
                "another network."
            )
        params[path] = np.asarray(arrays.pop(name), np.float32)
    if arrays:
        others = f" and {len(arrays) - 1} more" if len(arrays) > 1 else ""
        raise ConfigError(f"{title} has {min(arrays)}{others}, which AlphaFold 2 lacks: it is of another network.")
    return nested_dicts(params)


def save_alphafold(params: Any, path: str | Path | None = None) -> Arrays:
    """Our parameters in float32 under their published names; written to `path` as .npz too, if it is given.

    Raises:
      ConfigError: AlphaFold 2 has no such parameter.
    """
    arrays: Arrays = {}
    for name, array in named_leaves(jax.device_get(params)).items():
        try:
            arrays[PREFIX + published_name(name)] = np.asarray(array, np.float32)
        except KeyError:
            raise ConfigError(
                f"{name} is not a parameter of AlphaFold 2: only its network has published names."
            ) from None
    if path is not None:
        # Renamed when it is whole, so that nobody ever reads half a file.
        partial = Path(f"{path}.partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    return arrays


def _check_model(keys: dict[str, Any], config: ModelConfig, title: str) -> None:
    """Refuses parameters of a model with other keys, naming those that differ."""
    here = {key: reduce(getattr, key.split("."), config) for key in keys}
    # Null stands for an even split; of what parameters do not tell only whether there is any can be wrong.
    here["msa_head_dim"] = config.msa_head_dim or config.c_m // config.msa_heads
    here["pair_head_dim"] = config.pair_head_dim or config.c_z // config.pair_heads
    for key in ("recycles", "structure.layers"):
        if here[key] and keys[key]:
            here[key] = keys[key]
    other = {key: value for key, value in keys.items() if here[key] != value}
    if other:
        listed = ", ".join(f"model.{key}={spell(value)} (here {spell(here[key])})" for key, value in other.items())
        raise ConfigError(f"{title} is of a model with {listed}: write {'this' if len(other) == 1 else 'these'}.")


def _shapes(config: ModelConfig) -> dict[str, Any]:
    """What `AlphaFold(config)` is made of, as ShapeDtypeStructs."""
    network = nnx.eval_shape(lambda: AlphaFold(config, policy=Policy(), rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))
