"""Naming the atoms that a symmetric side chain cannot tell apart as they suit the prediction.

AlphaFold 2, Suppl. Alg. 26. Turning the end of ASP, GLU, PHE or TYR by 180° exchanges the names of two or four atoms
and changes nothing else. Positions are in Å.

Dimensions: N residues, A symmetric atoms of the device's share of them, B all atoms one after another.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from evotrain.losses.geometry import distances
from evotrain.model.rigid import Rigid, from_flat12
from evotrain.parallel.context import gather, shard
from evotrain.residues import ATOM14_IS_AMBIGUOUS

EPSILON = 1e-10  # Å² in a root
# No other of the 14 atoms is ambiguous in any residue.
SYMMETRIC = np.flatnonzero(np.any(ATOM14_IS_AMBIGUOUS, axis=0))


class RenamedTarget(NamedTuple):
    """What was observed, under the names that are closer to the prediction."""

    positions: jax.Array  # [N, 14, 3]
    exists: jax.Array  # [N, 14]
    frames: Rigid  # [N, 8]


def renamed_target(positions: jax.Array, example: dict[str, jax.Array]) -> RenamedTarget:
    """The targets of `example` under the names that suit the predicted positions [N, 14, 3]."""
    swap = alternative_is_closer(
        positions,
        example["atom14_gt_positions"],
        example["atom14_alt_gt_positions"],
        example["atom14_gt_exists"],
        example["aatype"],
    )

    def choose(name: str, alternative: str) -> jax.Array:
        x = example[name]
        return jnp.where(swap.reshape(-1, *(1,) * (x.ndim - 1)), example[alternative], x)

    return RenamedTarget(
        positions=choose("atom14_gt_positions", "atom14_alt_gt_positions"),
        exists=choose("atom14_gt_exists", "atom14_alt_gt_exists"),
        frames=from_flat12(choose("rigidgroups_gt_frames", "rigidgroups_alt_gt_frames")),
    )


def alternative_is_closer(
    predicted: jax.Array, target: jax.Array, alternative: jax.Array, exists: jax.Array, aatype: jax.Array
) -> jax.Array:
    """Whether a residue's alternative names agree better with the prediction -> bool [N].

    Names are compared by the distances of the residue's ambiguous atoms to all atoms that are not, in the prediction
    and in the target: positions [N, 14, 3], exists [N, 14], aatype [N].
    """
    predicted = lax.stop_gradient(predicted)
    ambiguous = jnp.asarray(ATOM14_IS_AMBIGUOUS)[aatype]
    rows = shard(exists * ambiguous, 0)[:, SYMMETRIC].reshape(-1, 1)
    columns = (exists * (1.0 - ambiguous)).reshape(1, -1)

    def to_all_atoms(positions: jax.Array) -> jax.Array:
        return distances(shard(positions, 0)[:, SYMMETRIC].reshape(-1, 3), positions.reshape(-1, 3), EPSILON)

    predicted_AB = to_all_atoms(predicted)

    def deviation(names: jax.Array) -> jax.Array:
        error_AB = jnp.sqrt(EPSILON + jnp.square(predicted_AB - to_all_atoms(names)))
        return jnp.sum((error_AB * rows * columns).reshape(-1, len(SYMMETRIC) * columns.size), axis=1)

    return gather(deviation(alternative) < deviation(target), 0)
