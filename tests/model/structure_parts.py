"""Our structure module and its parts as programs, of small sizes, with random inputs: what its tests run."""

from typing import Any

import jax
import numpy as np
from flax import nnx
from parity import Arrays, Program, random_params

from evotrain.config import ModelConfig, StructureConfig
from evotrain.model.layers import Policy
from evotrain.model.network import bind
from evotrain.model.rigid import Rigid, rotation_from_quaternion
from evotrain.model.sidechain import atom14_positions, rigid_group_frames, unit
from evotrain.model.structure import Chain, StructureModule
from evotrain.residues import NUM_TYPES

RESIDUES = NUM_TYPES  # one of each type
# All different, so that a transposition shows.
SIZES = StructureConfig(layers=2, c_s=20, heads=3, scalar_dim=5, query_points=2, value_points=4, c_sidechain=14)
CONFIG = ModelConfig(blocks=1, c_m=24, c_z=16, msa_heads=4, pair_heads=2, c_triangle=12, structure=SIZES)
FRAMES = ("quaternion", "translation")
# The inputs of each part, and where it stands in the network.
INPUTS = {
    "attention": ("single", "pair", *FRAMES),
    "sidechain": ("act", "initial", *FRAMES),
    "fold": ("act", "initial", "pair", *FRAMES),
    "structure": ("single", "pair"),
}
PATHS = {
    "attention": "structure/fold/attention",
    "sidechain": "structure/fold/sidechain",
    "fold": "structure/fold",
    "structure": "structure",
}


def build(name: str, dtype: np.dtype, remat: str = "block") -> tuple[nnx.GraphDef, Any]:
    """The structure of our part, computing in `dtype`, and the shapes of its parameters as a nested dict."""
    path = PATHS[name].split("/")[1:]

    def make() -> nnx.Module:
        module = StructureModule(CONFIG, policy=Policy(dtype=dtype, remat=remat), rngs=nnx.Rngs(0))
        for part in path:
            module = getattr(module, part)
        return module

    graphdef, shapes = nnx.split(nnx.eval_shape(make), nnx.Param)
    return graphdef, nnx.to_pure_dict(shapes)


def ours(name: str, dtype: np.dtype, remat: str = "block") -> Program:
    """Our part, computing in `dtype`, with the outputs of its counterpart in `haiku_structure`."""
    graphdef, _ = build(name, dtype, remat)

    def run(params: Arrays, inputs: Arrays, given: Arrays) -> Arrays:
        module = bind(graphdef, params)
        if name != "structure":
            frames = Rigid(rotation_from_quaternion(inputs["quaternion"]), inputs["translation"])
        match name:
            case "attention":
                return {"update": module(inputs["single"], inputs["pair"], frames, given["seq_mask"])}
            case "sidechain":
                vectors = module(inputs["act"], inputs["initial"])
                groups = rigid_group_frames(given["aatype"], frames, unit(vectors))
                atoms = atom14_positions(given["aatype"], groups)
                return {"angles": unit(vectors), "vectors": vectors, "positions": atoms, **frames_of("frame_", groups)}
            case "fold":
                chain = Chain(inputs["act"], inputs["quaternion"], inputs["translation"])
                chain, (backbone, vectors) = module(chain, inputs["initial"], inputs["pair"], given["seq_mask"])
                return {"act": chain.act, "vectors": vectors, **frames_of("", backbone)}
        found = module(inputs["single"], inputs["pair"], given["aatype"], given["seq_mask"])
        return {
            "single": found.single,
            "angles": found.angles,
            "vectors": found.unnormalized_angles,
            "positions": found.atom14_positions,
            **frames_of("", found.backbone),
            **frames_of("frame_", found.frames),
        }

    return run


def whole(remat: str = "block") -> tuple[Program, Arrays]:
    """The structure module in float32, and parameters."""
    dtype = np.dtype("float32")
    params = random_params(build("structure", dtype)[1])
    return ours("structure", dtype, remat), jax.tree.map(np.float32, params)


def frames_of(prefix: str, frames: Rigid) -> Arrays:
    return {f"{prefix}rotation": frames.rotation, f"{prefix}translation": frames.translation}


def inputs_and_features(dtype: type = np.float32) -> tuple[Arrays, Arrays]:
    """Random representations and frames; some residues are padding."""
    rng = np.random.default_rng(0)
    quaternion = rng.normal(size=(RESIDUES, 4))
    inputs = {name: rng.normal(size=(RESIDUES, SIZES.c_s)) for name in ("single", "act", "initial")} | {
        "pair": rng.normal(size=(RESIDUES, RESIDUES, CONFIG.c_z)),
        "quaternion": quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True),
        "translation": rng.normal(size=(RESIDUES, 3)),
    }
    seq_mask = np.ones(RESIDUES)
    seq_mask[[4, 17, 20]] = 0.0
    aatype = rng.permutation(RESIDUES)
    return jax.tree.map(dtype, inputs), {"seq_mask": dtype(seq_mask), "aatype": aatype}
