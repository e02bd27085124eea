"""Losses that are read off the MSA and pair representations.

All float32; predictions are sharded along dimension 0, and so are the labels of the masked MSA, others are whole.
"""

import jax
import jax.numpy as jnp

from evotrain.model.heads import distance_breaks
from evotrain.parallel.context import shard, sum_shards

# AlphaFold's, which differ by head.
MSA_EPSILON = 1e-8
DISTOGRAM_EPSILON = 1e-6


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """−log softmax(logits)[labels]: logits [..., K], labels int [...] -> [...]."""
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def masked_msa_loss(logits: jax.Array, true_msa: jax.Array, bert_mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy over hidden positions: logits [S, N, 23], true_msa and bert_mask [S, N]."""
    count = MSA_EPSILON + sum_shards(jnp.sum(bert_mask))
    loss = sum_shards(jnp.sum(cross_entropy(logits, true_msa) * bert_mask)) / count
    correct = (jnp.argmax(logits, axis=-1) == true_msa) * bert_mask
    return loss, sum_shards(jnp.sum(correct)) / count


def distogram_loss(logits: jax.Array, pseudo_beta: jax.Array, pseudo_beta_mask: jax.Array) -> jax.Array:
    """Mean cross-entropy over observed pairs: logits [N, N, 64], pseudo_beta [N, 3] in Å, mask [N]."""
    rows, row_mask = shard(pseudo_beta, 0), shard(pseudo_beta_mask, 0)
    squared = jnp.sum(jnp.square(rows[:, None] - pseudo_beta[None]), axis=-1)
    labels = jnp.sum(squared[..., None] > jnp.square(distance_breaks())[None, None], axis=-1)
    mask = row_mask[:, None] * pseudo_beta_mask[None]
    errors = sum_shards(jnp.sum(cross_entropy(logits, labels) * mask))
    return errors / (DISTOGRAM_EPSILON + sum_shards(jnp.sum(mask)))
