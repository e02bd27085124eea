"""The structure module: from single and pair representation to the positions of all atoms.

It is small beside the trunk and is not sharded: every device that shares an example computes it whole.

Dimensions: L layers (iterations), N residues (I rows, J columns of a pair), C channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from evotrain.config import ModelConfig
from evotrain.model.invariant_point_attention import InvariantPointAttention
from evotrain.model.layers import Dense, LayerNorm, Policy, dropout_mask
from evotrain.model.rigid import Rigid, apply, rotation_from_quaternion, turn_quaternion
from evotrain.model.sidechain import TorsionAngles, atom14_positions, rigid_group_frames, unit
from evotrain.model.stack import REMAT_POLICIES
from evotrain.parallel.context import differing_like
from evotrain.residues import ATOM37_EXISTS, ATOM37_TO_ATOM14

POSITION_SCALE = 10.0  # Å for one unit of the translations that the layers compute with


class Structure(NamedTuple):
    """What the structure module predicts."""

    backbone: Rigid  # [L, N], translations (Cα) in Å, after each layer
    angles: jax.Array  # [L, N, 7, 2], (sine, cosine) of ω, φ, ψ, χ1 to χ4
    unnormalized_angles: jax.Array  # [L, N, 7, 2]
    frames: Rigid  # [N, 8], rigid groups after the last layer, in Å
    atom14_positions: jax.Array  # [N, 14, 3] in Å, after the last layer
    single: jax.Array  # [N, c_s]


class Chain(NamedTuple):
    """What one layer hands to the next."""

    act: jax.Array  # [N, c_s]
    quaternion: jax.Array  # [N, 4], the rotation of each backbone frame
    translation: jax.Array  # [N, 3], in units of 10 Å


class StructureModule(nnx.Module):
    """Folds the chain (AlphaFold 2, Suppl. Alg. 20).

    single [N, c_s], pair [N, N, c_z], aatype and mask [N] -> Structure. All backbone frames start at the origin. The
    layers share their weights and run under one scan.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        c_s = config.structure.c_s
        self.layers, self.remat = config.structure.layers, policy.remat
        self.norm_single = LayerNorm(c_s, policy=policy)
        self.norm_pair = LayerNorm(config.c_z, policy=policy)
        self.project = Dense((c_s,), (c_s,), policy=policy, rngs=rngs)
        self.fold = FoldIteration(config, policy=policy, rngs=rngs)

    def __call__(
        self,
        single_NC: jax.Array,
        pair_IJC: jax.Array,
        aatype_N: jax.Array,
        seq_mask_N: jax.Array,
        key: jax.Array | None = None,
    ) -> Structure:
        initial, pair_IJC = self.norm_single(single_NC), self.norm_pair(pair_IJC)

        def body(chain: Chain, key: jax.Array | None) -> tuple[Chain, tuple[Rigid, jax.Array]]:
            return self.fold(chain, initial, pair_IJC, seq_mask_N, key)

        if self.remat != "none":
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        keys = None if key is None else jax.random.split(key, self.layers)
        act = self.project(initial)
        start = differing_like(_at_origin(act), act, pair_IJC, seq_mask_N)
        chain, (backbone, vectors) = lax.scan(body, start, keys, length=self.layers)

        backbone = backbone._replace(translation=backbone.translation * POSITION_SCALE)
        angles = unit(vectors)
        frames = rigid_group_frames(aatype_N, jax.tree.map(lambda x: x[-1], backbone), angles[-1])
        return Structure(backbone, angles, vectors, frames, atom14_positions(aatype_N, frames), chain.act)


class FoldIteration(nnx.Module):
    """One layer: attention, transition, backbone update, torsion angles (AlphaFold 2, Suppl. Alg. 20, lines 5-14).

    chain, initial act [N, c_s], pair [N, N, c_z] normalised, mask [N] -> chain, (backbone frames [N] in units of 10 Å,
    torsion angles [N, 7, 2] as vectors of any length). A layer gives no gradient to the rotations of those before it.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        c_s, built = (config.structure.c_s,), {"policy": policy, "rngs": rngs}
        self.dropout = config.structure.dropout
        self.attention = InvariantPointAttention(config, **built)
        self.norm_attention = LayerNorm(*c_s, policy=policy)
        self.transition_1 = Dense(c_s, c_s, kind="relu", **built)
        self.transition_2 = Dense(c_s, c_s, kind="relu", **built)
        self.transition_3 = Dense(c_s, c_s, kind="final", **built)
        self.norm_transition = LayerNorm(*c_s, policy=policy)
        self.backbone_update = Dense(c_s, (6,), kind="final", **built)
        self.sidechain = TorsionAngles(config, **built)

    def __call__(
        self, chain: Chain, initial: jax.Array, pair: jax.Array, mask: jax.Array, key: jax.Array | None = None
    ) -> tuple[Chain, tuple[Rigid, jax.Array]]:
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        frames = Rigid(rotation_from_quaternion(chain.quaternion), chain.translation)
        act = chain.act + self.attention(chain.act, pair, frames, mask)
        act = self.norm_attention(act * dropout_mask(keys[0], self.dropout, act.shape, act.dtype))
        hidden = jax.nn.relu(self.transition_2(jax.nn.relu(self.transition_1(act))))
        act += self.transition_3(hidden)
        act = self.norm_transition(act * dropout_mask(keys[1], self.dropout, act.shape, act.dtype))

        # Turn and step within the residue's own frame (AlphaFold 2, Suppl. Alg. 23).
        turn, step = jnp.split(self.backbone_update(act), 2, axis=-1)
        quaternion = turn_quaternion(chain.quaternion, turn)
        translation = apply(frames, step)
        backbone = Rigid(rotation_from_quaternion(quaternion), translation)
        return Chain(act, lax.stop_gradient(quaternion), translation), (backbone, self.sidechain(act, initial))


def _at_origin(act_NC: jax.Array) -> Chain:
    residues, dtype = act_NC.shape[0], act_NC.dtype
    quaternion = jnp.tile(jnp.array([[1.0, 0.0, 0.0, 0.0]], dtype), (residues, 1))
    return Chain(act_NC, quaternion, jnp.zeros((residues, 3), dtype))


def atom14_to_atom37(positions: jax.Array, aatype_N: jax.Array) -> jax.Array:
    """Positions [N, 14, 3] in atom37 order [N, 37, 3], 0 where a residue type has no such atom."""
    place_NA = jnp.asarray(ATOM37_TO_ATOM14)[aatype_N]
    exists_NA = jnp.asarray(ATOM37_EXISTS)[aatype_N]
    return jnp.take_along_axis(positions, place_NA[..., None], axis=1) * exists_NA[..., None]
