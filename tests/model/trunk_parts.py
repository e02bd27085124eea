"""The modules around the Evoformer stack as programs (parameters, inputs, given) -> outputs, and arguments for them.

Inputs are what is differentiated.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from parity import Arrays, Program, random_params

from evotrain.config import ExtraMSAConfig, ModelConfig, TemplateConfig
from evotrain.model.extra_msa import ExtraMSA, MSAColumnGlobalAttention
from evotrain.model.layers import Policy
from evotrain.model.network import bind
from evotrain.model.recycling import Recycled, RecyclingEmbedding
from evotrain.model.template import TemplateAngles, TemplateEmbedding

# All different, so that a transposition shows.
RESIDUES, EXTRA_SEQUENCES, TEMPLATES, SEQUENCES = 7, 6, 3, 5
CONFIG = ModelConfig(
    blocks=1,
    c_m=12,
    c_z=10,
    msa_heads=3,
    pair_heads=2,
    c_outer=6,
    c_triangle=9,
    transition_factor=2,
    extra_msa=ExtraMSAConfig(blocks=2, c_m=8, heads=2),
    template=TemplateConfig(blocks=2, c_t=16, heads=4, transition_factor=3),
)
CLASSES = {
    "extra_msa": partial(ExtraMSA, CONFIG),
    "global_column_attention": partial(MSAColumnGlobalAttention, replace(CONFIG, c_m=8, msa_heads=2)),
    "template": partial(TemplateEmbedding, CONFIG),
    "template_angles": partial(TemplateAngles, CONFIG),
    "recycling": partial(RecyclingEmbedding, CONFIG),
}


def build(name: str, dtype: Any = np.float32) -> tuple[nnx.GraphDef, Arrays]:
    """The structure of a module, computing in `dtype`, and the shapes of its parameters."""
    policy = Policy(dtype=np.dtype(dtype))
    one = nnx.eval_shape(lambda: CLASSES[name](policy=policy, rngs=nnx.Rngs(0)))
    graphdef, shapes = nnx.split(one, nnx.Param)
    return graphdef, nnx.to_pure_dict(shapes)


def params(name: str) -> Arrays:
    """Random parameters in float64."""
    return random_params(build(name)[1])


def program(name: str, dtype: Any = np.float32, seed: int | None = None) -> Program:
    """A module, computing in `dtype`, with the dropout of a seed or without."""
    graphdef, _ = build(name, dtype)
    extra = ("extra_msa", "extra_has_deletion", "extra_deletion_value", "extra_msa_mask")

    def run(params: Arrays, inputs: Arrays, given: Arrays) -> Arrays:
        module, key = bind(graphdef, params), None if seed is None else jax.random.key(seed)
        match name:
            case "extra_msa":
                return {"z": module(*(given[feature] for feature in extra), inputs["z"], given["pair_mask"], key)}
            case "global_column_attention":
                return {"update": module(inputs["m"], given["extra_msa_mask"])}
            case "template":
                return {"update": module(inputs["z"], given, given["pair_mask"], key)}
            case "template_angles":
                return {"rows": module(inputs["template_angle_feat"])}
            case "recycling":
                recycled = Recycled(inputs["recycled_m"], inputs["recycled_z"], given["positions"])
                m, z = module(inputs["m"], inputs["z"], recycled, given["aatype"])
                return {"m": m, "z": z}
        raise AssertionError(name)

    return run


def arguments(name: str, **sizes: int) -> tuple[Arrays, Arrays]:
    """Random inputs and features in float64, with ragged masks: the last two residues are padding, as are the last
    extra sequence and the last template. `sizes` may give other numbers of them."""
    make = {"extra_msa": _extra_msa, "template": _template, "recycling": _recycling}
    if name in make:
        return make[name](np.random.default_rng(0), **sizes)
    rng = np.random.default_rng(1)
    if name == "global_column_attention":
        _, given = arguments("extra_msa")
        return {"m": rng.normal(size=(*given["extra_msa_mask"].shape, CONFIG.extra_msa.c_m))}, given
    return {"template_angle_feat": rng.normal(size=(sizes.get("templates", TEMPLATES), RESIDUES, 57))}, {}


def float32(tree: Any) -> Any:
    """The same with float64 narrowed, and integers too."""
    return jax.tree.map(lambda x: x.astype(np.float32 if x.dtype == np.float64 else np.int32), tree)


def _extra_msa(
    rng: np.random.Generator, sequences: int = EXTRA_SEQUENCES, residues: int = RESIDUES
) -> tuple[Arrays, Arrays]:
    seq_mask = (np.arange(residues) < residues - 2).astype(float)
    mask = seq_mask[None] * (rng.random((sequences, residues)) < 0.7)
    mask[-1] = 0.0
    given = {
        "extra_msa": rng.integers(0, 23, mask.shape),
        "extra_has_deletion": (rng.random(mask.shape) < 0.3).astype(float),
        "extra_deletion_value": rng.random(mask.shape),
        "extra_msa_mask": mask,
        "pair_mask": seq_mask[:, None] * seq_mask[None],
    }
    return {"z": rng.normal(size=(residues, residues, CONFIG.c_z))}, given


def _template(rng: np.random.Generator, templates: int = TEMPLATES, residues: int = RESIDUES) -> tuple[Arrays, Arrays]:
    seq_mask = (np.arange(residues) < residues - 2).astype(float)
    atoms = (rng.random((templates, residues, 37)) < 0.9) * seq_mask[None, :, None]
    given = {
        "pair_mask": seq_mask[:, None] * seq_mask[None],
        "template_aatype": rng.integers(0, 22, (templates, residues)),
        "template_mask": (np.arange(templates) < templates - 1).astype(float),
        "template_pseudo_beta": 10.0 * rng.normal(size=(templates, residues, 3)),
        "template_pseudo_beta_mask": atoms[..., 3] * (rng.random((templates, residues)) < 0.9),
        "template_backbone_mask": atoms[..., 0] * atoms[..., 1] * atoms[..., 2],
        # From which the reference makes the backbone's mask.
        "template_all_atom_masks": atoms,
        "template_all_atom_positions": 10.0 * rng.normal(size=(templates, residues, 37, 3)),
    }
    return {"z": rng.normal(size=(residues, residues, CONFIG.c_z))}, given


def _recycling(rng: np.random.Generator, sequences: int = SEQUENCES, residues: int = RESIDUES) -> tuple[Arrays, Arrays]:
    pairs = (residues, residues, CONFIG.c_z)
    inputs = {
        "m": rng.normal(size=(sequences, residues, CONFIG.c_m)),
        "z": rng.normal(size=pairs),
        "recycled_m": rng.normal(size=(residues, CONFIG.c_m)),
        "recycled_z": rng.normal(size=pairs),
    }
    aatype = np.resize([7, 0, 7, 19, 20], residues)  # glycines, others, unknown
    return inputs, {"aatype": aatype, "positions": 6.0 * rng.normal(size=(residues, 37, 3))}
