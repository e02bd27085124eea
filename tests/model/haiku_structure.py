"""DeepMind's structure module and its parts, as programs to compare ours with.

Inputs are what is differentiated: single or act [N, c_s], pair [N, N, c_z], frames as quaternion [N, 4] and translation
[N, 3]. Rotations are given out as matrices, those of the backbone as [N, 3, 3].
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from alphafold.model import config as alphafold_config
from alphafold.model import folding, prng, quat_affine, r3
from haiku_reference import global_config
from parity import Arrays, Program

from evotrain.config import ModelConfig


def reference(forward: Callable[..., Arrays], config: ModelConfig) -> Program:
    """One of the functions below as (parameters, inputs, given) -> outputs."""
    transformed = hk.transform(partial(forward, config))

    def run(params: Arrays, inputs: Arrays, given: Arrays) -> Arrays:
        with jax.numpy_rank_promotion("allow"):
            return transformed.apply(params, None, inputs, given)

    return run


def attention(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    """Invariant point attention."""
    module = folding.InvariantPointAttention(structure_config(config), global_config())
    return {"update": module(inputs["single"], inputs["pair"], given["seq_mask"][:, None], _affine(inputs))}


def fold(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    """One layer, which is handed frames and representations."""
    chain, found = folding.FoldIteration(structure_config(config), global_config())(
        {"act": inputs["act"], "affine": _affine(inputs).to_tensor()},
        sequence_mask=given["seq_mask"][:, None],
        update_affine=True,
        is_training=True,
        initial_act=inputs["initial"],
        safe_key=_key(),
        static_feat_2d=inputs["pair"],
        aatype=given["aatype"],
    )
    return {"act": chain["act"], **_backbone(found["affine"]), "vectors": found["sc"]["unnormalized_angles_sin_cos"]}


def sidechain(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    """Torsion angles, and the frames and atoms that they make; translations are in Å."""
    module = folding.MultiRigidSidechain(structure_config(config).sidechain, global_config())
    return _atoms(module(_affine(inputs), [inputs["act"], inputs["initial"]], given["aatype"]))


def structure(config: ModelConfig, inputs: Arrays, given: Arrays) -> Arrays:
    """The whole structure module."""
    theirs = structure_config(config)
    found = folding.generate_affines(inputs, given, theirs, global_config(), is_training=True, safe_key=_key())
    scale = jnp.array([1.0] * 4 + [theirs.position_scale] * 3)
    atoms = _atoms(found["sc"])
    last = {name: atoms[name][-1] for name in ("frame_rotation", "frame_translation", "positions")}
    return {"single": found["act"], **_backbone(found["affine"] * scale), **atoms, **last}


def structure_config(config: ModelConfig) -> Any:
    """The reference's configuration of its structure module, with our sizes."""
    sizes, theirs = config.structure, alphafold_config.model_config("model_3_ptm").model.heads.structure_module
    theirs.num_layer, theirs.num_channel, theirs.num_head = sizes.layers, sizes.c_s, sizes.heads
    theirs.num_scalar_qk = theirs.num_scalar_v = sizes.scalar_dim
    theirs.num_point_qk, theirs.num_point_v = sizes.query_points, sizes.value_points
    theirs.sidechain.num_channel = sizes.c_sidechain
    return theirs


def _affine(inputs: Arrays) -> quat_affine.QuatAffine:
    # Not normalised, so that all components of the quaternion have a gradient.
    return quat_affine.QuatAffine(inputs["quaternion"], inputs["translation"], normalize=False, unstack_inputs=True)


def _backbone(affine: jax.Array) -> Arrays:
    rigid = r3.rigids_from_quataffine(quat_affine.QuatAffine.from_tensor(affine))
    return {"rotation": _matrices(rigid.rot), "translation": r3.vecs_to_tensor(rigid.trans)}


def _atoms(found: Arrays) -> Arrays:
    return {
        "angles": found["angles_sin_cos"],
        "vectors": found["unnormalized_angles_sin_cos"],
        "frame_rotation": _matrices(found["frames"].rot),
        "frame_translation": r3.vecs_to_tensor(found["frames"].trans),
        "positions": r3.vecs_to_tensor(found["atom_pos"]),
    }


def _matrices(rotations: r3.Rots) -> jax.Array:
    return jnp.stack(list(rotations), axis=-1).reshape(*rotations.xx.shape, 3, 3)


def _key() -> prng.SafeKey:
    return prng.SafeKey(jax.random.key(0))
