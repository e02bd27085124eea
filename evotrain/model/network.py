"""The networks that can be trained: from one example's features to losses and predictions."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from evotrain.config import Config, ModelConfig
from evotrain.losses import distogram_loss, masked_msa_loss, weighted_total
from evotrain.model.embedding import InputEmbedding
from evotrain.model.evoformer import EvoformerStack
from evotrain.model.heads import DistogramHead, MaskedMSAHead, contact_probability, expected_distance
from evotrain.model.layers import Policy
from evotrain.parallel.context import shard, sum_shards

Example = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Trunk(nnx.Module):
    """AlphaFold 2's trunk with the heads that are read off it: embedding, Evoformer stack, masked MSA, distogram."""

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        self.loss_config = config.loss
        self.embedding = InputEmbedding(config, **built)
        self.evoformer = EvoformerStack(config, **built)
        self.masked_msa = MaskedMSAHead(config, **built)
        self.distogram = DistogramHead(config, **built)

    def __call__(self, example: Example, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Masked-MSA logits [S, N, 23] and distogram logits [N, N, 64], sharded along dimension 0.

        `key` draws the dropout; None means none.
        """
        m, z = self.embedding(example["target_feat"], example["msa_feat"], example["residue_index"])
        pair_mask = example["seq_mask"][:, None] * example["seq_mask"][None]
        m, z = self.evoformer(m, z, example["msa_mask"], pair_mask, key)
        return self.masked_msa(m), self.distogram(z)

    def loss(self, example: Example, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The loss of an example and its parts."""
        return self._loss(example, *self(example, key))

    def predict(self, example: Example) -> tuple[Metrics, dict[str, jax.Array]]:
        """The metrics of a held-out example, and [N, N] maps sharded along rows: contact probability and distance."""
        msa_logits, distogram_logits = self(example)
        _, metrics = self._loss(example, msa_logits, distogram_logits)
        maps = {
            "contact_probability": contact_probability(distogram_logits),
            "expected_distance": expected_distance(distogram_logits),
        }
        return metrics, maps

    def _loss(self, example: Example, msa_logits: jax.Array, distogram_logits: jax.Array) -> tuple[jax.Array, Metrics]:
        msa, accuracy = masked_msa_loss(msa_logits, example["true_msa"], example["bert_mask"])
        distogram = distogram_loss(distogram_logits, example["pseudo_beta"], example["pseudo_beta_mask"])
        parts = {"masked_msa": msa, "distogram": distogram}
        total = weighted_total(parts, jnp.sum(example["seq_mask"]), self.loss_config)
        named = {f"loss/{name}": part for name, part in parts.items()}
        return total, {"loss": total, **named, "masked_msa/accuracy": accuracy}


class RepresentationRegression(nnx.Module):
    """The Evoformer stack alone, given both representations and regressing them to zero (for data=synthetic)."""

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.dtype = policy.dtype
        self.evoformer = EvoformerStack(config, policy=policy, rngs=rngs)

    def loss(self, example: Example, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The sum of the mean squares of the updated representations."""
        m, z = (shard(example[name], 0).astype(self.dtype) for name in ("msa", "pair"))
        m, z = self.evoformer(m, z, example["msa_mask"], example["pair_mask"], key)
        total = _mean_square(m, example["msa"].size) + _mean_square(z, example["pair"].size)
        return total, {"loss": total}

    def predict(self, example: Example) -> tuple[Metrics, dict[str, jax.Array]]:
        """The metrics of a held-out example; there are no maps."""
        return self.loss(example)[1], {}


def _mean_square(x: jax.Array, size: int) -> jax.Array:
    return sum_shards(jnp.sum(jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))))) / size


def network(config: Config) -> tuple[nnx.GraphDef, Any]:
    """The structure of the configured network, and its parameters as a nested dict of ShapeDtypeStructs."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: _build(config, jax.random.key(0))), nnx.Param)
    return graphdef, nnx.to_pure_dict(params)


def initial_params(config: Config, key: jax.Array) -> Any:
    """Freshly initialised parameters as a nested dict of float32 arrays."""
    return nnx.to_pure_dict(nnx.state(_build(config, key), nnx.Param))


def bind(graphdef: nnx.GraphDef, params: Any) -> Any:
    """The network with these parameters."""
    return nnx.merge(graphdef, nnx.State(jax.tree.map(nnx.Param, params)))


def _build(config: Config, key: jax.Array) -> Any:
    cls = RepresentationRegression if config.data.source == "synthetic" else Trunk
    return cls(config.model, policy=Policy.of(config), rngs=nnx.Rngs(params=key))
