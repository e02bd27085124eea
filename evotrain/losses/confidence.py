"""Losses of the heads that predict how good the structure is, and what those heads should say.

They count only for structures at a resolution of 0.1 to 3 Å: NMR models and predictions, whose resolution is 0, and
blurred maps do not show where atoms are.

Every array is whole, but pairwise logits, which are sharded along rows; a device that shares the example with others
takes its share of the residues.

Dimensions: N residues (rows I, columns J), B bins.
"""

import jax
import jax.numpy as jnp
from jax import lax

from evotrain.losses.geometry import distances, squared_errors
from evotrain.losses.representation import cross_entropy
from evotrain.model.heads import aligned_error_breaks
from evotrain.model.rigid import Rigid
from evotrain.parallel.context import shard, sum_shards
from evotrain.residues import ATOM37_EXISTS

BEST_RESOLUTION, WORST_RESOLUTION = 0.1, 3.0  # Å
NEIGHBOURHOOD = 15.0  # Å, in the target
TOLERANCES = (0.5, 1.0, 2.0, 4.0)  # Å
EPSILON = 1e-8  # in a denominator
LDDT_EPSILON = 1e-10  # Å² in a root; in the quotient, it gives a residue without neighbours the score 1


def lddt_ca(predicted: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """The lDDT-Cα, 0 to 1, of the device's share I of the residues: Cα positions [N, 3] in Å, mask [N] -> [I].

    The share of distances to neighbours that are kept, mean over four tolerances (Mariani et al., 2013, without its
    test of stereochemistry).
    """
    residues = jnp.arange(len(mask))
    rows, row_mask, row_residues = (shard(x, 0) for x in (target, mask, residues))
    target_IJ = distances(rows, target, LDDT_EPSILON)
    error_IJ = jnp.abs(target_IJ - distances(shard(predicted, 0), predicted, LDDT_EPSILON))
    neighbours_IJ = (target_IJ < NEIGHBOURHOOD) & (row_residues[:, None] != residues[None])
    scored_IJ = neighbours_IJ * row_mask[:, None] * mask[None]
    kept_IJ = sum((error_IJ < tolerance).astype(mask.dtype) for tolerance in TOLERANCES) / len(TOLERANCES)
    # One over the count first, as published: a score at the border of two bins rounds the same way.
    norm = 1.0 / (LDDT_EPSILON + jnp.sum(scored_IJ, axis=-1))
    return norm * (LDDT_EPSILON + jnp.sum(scored_IJ * kept_IJ, axis=-1))


def plddt_loss(logits: jax.Array, predicted: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy of the lDDT-Cα (AlphaFold 2, Suppl. Alg. 29): logits [N, B], positions as in `lddt_ca` -> [].

    The prediction is taken as it is: no gradient goes to the positions.
    """
    bins = logits.shape[-1]
    score = lddt_ca(lax.stop_gradient(predicted), target, mask)
    labels = jnp.minimum(jnp.floor(score * bins).astype(jnp.int32), bins - 1)
    errors = cross_entropy(shard(logits, 0), labels) * shard(mask, 0)
    return sum_shards(jnp.sum(errors)) / (jnp.sum(mask) + EPSILON)


def resolved_loss(logits: jax.Array, aatype: jax.Array, observed: jax.Array, seq_mask: jax.Array) -> jax.Array:
    """Mean binary cross-entropy of which atoms were observed (AlphaFold 2, Suppl. 1.9.10).

    logits and observed [N, 37]; of these, the atoms count that a residue of type aatype [N] has.
    """
    exists = jnp.asarray(ATOM37_EXISTS)[aatype] * seq_mask[:, None]
    error = -observed * jax.nn.log_sigmoid(logits) - (1.0 - observed) * jax.nn.log_sigmoid(-logits)
    return sum_shards(jnp.sum(shard(error * exists, 0))) / (EPSILON + jnp.sum(exists))


def aligned_error_loss(logits: jax.Array, predicted: Rigid, target: Rigid, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy of the error of Cα J seen from backbone frame I (AlphaFold 2, Suppl. 1.9.7).

    logits [I, J, B] sharded along rows, backbone frames [N] in Å and mask [N] whole -> []. The prediction is taken as
    it is: no gradient goes to the frames.
    """
    predicted = jax.tree.map(lax.stop_gradient, predicted)
    rows = (jax.tree.map(lambda x: shard(x, 0), frames) for frames in (predicted, target))
    squared_IJ = squared_errors(*rows, predicted.translation, target.translation)
    labels_IJ = jnp.sum(squared_IJ[..., None] > jnp.square(aligned_error_breaks())[None, None], axis=-1)
    mask_IJ = shard(mask, 0)[:, None] * mask[None]
    errors = sum_shards(jnp.sum(cross_entropy(logits, labels_IJ) * mask_IJ))
    return errors / (EPSILON + sum_shards(jnp.sum(mask_IJ)))


def well_resolved(resolution: jax.Array) -> jax.Array:
    """1 where a structure's resolution [] in Å is good enough to learn confidence from, else 0 (also if unknown)."""
    return ((resolution >= BEST_RESOLUTION) & (resolution <= WORST_RESOLUTION)).astype(resolution.dtype)
