"""From a residue's representation to its torsion angles, and from those to the positions of its atoms.

Dimensions: N residues, C channels, G rigid groups of a residue (8), A atoms of a residue (14).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.model.layers import Dense, Policy
from evotrain.model.rigid import Rigid, apply, compose, expand, rotation_about_x
from evotrain.residues import (
    ATOM14_EXISTS,
    ATOM14_IDEAL_POSITIONS,
    CHI_GROUP,
    NUM_GROUPS,
    RIGID_GROUP_ATOM14,
    RIGID_GROUP_DEFAULT_FRAMES,
)

NUM_ANGLES = 7  # ω, φ, ψ, χ1 to χ4: one for each rigid group but the backbone
SQUARE_EPSILON = 1e-12  # below this a squared length is not divided by


class TorsionAngles(nnx.Module):
    """Predicts the torsion angles as vectors in the plane (AlphaFold 2, Suppl. Alg. 20, lines 11-14).

    act [N, c_s] and initial act [N, c_s] -> [N, 7, 2], (sine, cosine) of ω, φ, ψ, χ1 to χ4, not yet of unit length.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        c_s, c = (config.structure.c_s,), (config.structure.c_sidechain,)
        built = {"policy": policy, "rngs": rngs}
        self.project_act = Dense(c_s, c, **built)
        self.project_initial = Dense(c_s, c, **built)
        self.block_1_in = Dense(c, c, kind="relu", **built)
        self.block_1_out = Dense(c, c, kind="final", **built)
        self.block_2_in = Dense(c, c, kind="relu", **built)
        self.block_2_out = Dense(c, c, kind="final", **built)
        self.angles = Dense(c, (2 * NUM_ANGLES,), **built)

    def __call__(self, act_NC: jax.Array, initial_NC: jax.Array) -> jax.Array:
        relu = jax.nn.relu
        x = self.project_act(relu(act_NC)) + self.project_initial(relu(initial_NC))
        x += self.block_1_out(relu(self.block_1_in(relu(x))))
        x += self.block_2_out(relu(self.block_2_in(relu(x))))
        return self.angles(relu(x)).reshape(-1, NUM_ANGLES, 2)


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors [..., 2] at length 1."""
    return vectors / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True), SQUARE_EPSILON))


def rigid_group_frames(aatype_N: jax.Array, backbone_N: Rigid, angles: jax.Array) -> Rigid:
    """The frames [N, 8] of rigid groups (AlphaFold 2, Suppl. Alg. 24, lines 1-10).

    aatype [N], backbone frames [N] in Å, angles [N, 7, 2] as unit (sine, cosine). Groups that a residue type lacks
    have the frame of the one before; all groups of an unknown residue have rotation 0.
    """
    default = jnp.asarray(RIGID_GROUP_DEFAULT_FRAMES)[aatype_N]
    rotation = rotation_about_x(angles[..., 0], angles[..., 1])
    turn = Rigid(rotation, jnp.zeros_like(rotation[..., 0]))
    turned = compose(Rigid(default[:, 1:, :3, :3], default[:, 1:, :3, 3]), turn)

    def group(index: int) -> Rigid:
        return jax.tree.map(lambda x: x[:, index - 1], turned)

    groups = [Rigid(default[:, 0, :3, :3], default[:, 0, :3, 3]), *(group(i) for i in range(1, CHI_GROUP + 1))]
    for i in range(CHI_GROUP + 1, NUM_GROUPS):
        # A χ angle turns what the χ angle before it has turned.
        groups.append(compose(groups[-1], group(i)))
    in_backbone = jax.tree.map(lambda *frames: jnp.stack(frames, axis=1), *groups)
    return compose(expand(backbone_N), in_backbone)


def atom14_positions(aatype_N: jax.Array, frames_NG: Rigid) -> jax.Array:
    """The positions [N, 14, 3] of atoms in Å, 0 where there is none (AlphaFold 2, Suppl. Alg. 24, line 11)."""
    group_NA = jnp.asarray(RIGID_GROUP_ATOM14)[aatype_N]
    frames_NA = Rigid(
        jnp.take_along_axis(frames_NG.rotation, group_NA[:, :, None, None], axis=1),
        jnp.take_along_axis(frames_NG.translation, group_NA[:, :, None], axis=1),
    )
    positions = apply(frames_NA, jnp.asarray(ATOM14_IDEAL_POSITIONS)[aatype_N])
    return positions * jnp.asarray(ATOM14_EXISTS)[aatype_N][..., None]
