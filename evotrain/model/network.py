"""The networks that can be trained: from one example's features to losses and predictions.

Dimensions: R passes, S sequences, N residues (rows I, columns J of a pair), T templates, C channels.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from evotrain.config import Config, ModelConfig
from evotrain.data.protein import NUM_ATOMS
from evotrain.losses.representation import distogram_loss, masked_msa_loss
from evotrain.losses.structure import confidence_losses, structure_losses
from evotrain.losses.total import weighted_total
from evotrain.losses.violation import violation_metrics
from evotrain.model.embedding import InputEmbedding
from evotrain.model.evoformer import EvoformerStack
from evotrain.model.extra_msa import ExtraMSA
from evotrain.model.heads import (
    AlignedErrorHead,
    DistogramHead,
    MaskedMSAHead,
    PLDDTHead,
    ResolvedHead,
    contact_probability,
    expected_distance,
    plddt,
    predicted_aligned_error,
    ptm,
)
from evotrain.model.layers import Dense, Policy
from evotrain.model.recycling import Recycled, RecyclingEmbedding
from evotrain.model.structure import Structure, StructureModule, atom14_to_atom37
from evotrain.model.template import TemplateAngles, TemplateEmbedding
from evotrain.parallel.context import (
    first_shard_of,
    gather,
    replace_rows,
    shard,
    shard_with_blanks,
    sum_shards,
    zeros,
)
from evotrain.residues import ATOM37_EXISTS

Arrays = dict[str, jax.Array]
Example = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

# Features that are drawn anew for every pass and have a leading dimension R.
RESAMPLED = (
    "msa_feat",
    "msa_mask",
    "true_msa",
    "bert_mask",
    "extra_msa",
    "extra_has_deletion",
    "extra_deletion_value",
    "extra_msa_mask",
)


class Choices(NamedTuple):
    """What is drawn once for a whole batch."""

    recycles: jax.Array  # int32, passes before the last one
    clamped: jax.Array  # float32, 1 where backbone errors are clamped


class Prediction(NamedTuple):
    """What one pass predicts; what the network lacks the parts for is None. Float32."""

    masked_msa: jax.Array  # [S, N, 23] logits, sharded along S; with templates also of their rows, after those
    distogram: jax.Array  # [I, J, 64] logits, sharded along I
    recycled: Recycled  # what the next pass starts from
    structure: Structure | None
    plddt: jax.Array | None  # [N, 50] logits
    resolved: jax.Array | None  # [N, 37] logits
    aligned_error: jax.Array | None  # [I, J, 64] logits, sharded along I


class AlphaFold(nnx.Module):
    """AlphaFold 2 (Suppl. Alg. 2), as far as its configuration has the parts.

    Embedding, Evoformer stack and the heads that are read off it (masked MSA, distogram) are always there; recycling,
    templates, extra MSA, structure module and its heads where `model` says so.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        # Coordinates and logits are float32, whatever the trunk computes in.
        precise = {"policy": replace(policy, dtype=jnp.promote_types(policy.dtype, jnp.float32)), "rngs": rngs}
        self.config, self.policy = config, policy
        self.embedding = InputEmbedding(config, **built)
        self.evoformer = EvoformerStack(config, **built)
        self.masked_msa = MaskedMSAHead(config, **precise)
        self.distogram = DistogramHead(config, **precise)
        if config.recycles:
            self.recycling = RecyclingEmbedding(config, **built)
        if config.template.blocks:
            self.template = TemplateEmbedding(config, **built)
            if config.template.angles:
                self.template_angles = TemplateAngles(config, **built)
        if config.extra_msa.blocks:
            self.extra_msa = ExtraMSA(config, **built)
        if config.structure.layers:
            self.single = Dense((config.c_m,), (config.structure.c_s,), **built)
            self.structure = StructureModule(config, **precise)
            self.plddt = PLDDTHead(config, **precise)
            self.resolved = ResolvedHead(config, **precise)
            if config.structure.aligned_error:
                self.aligned_error = AlignedErrorHead(config, **precise)

    def __call__(self, features: Example, recycled: Recycled, key: jax.Array | None = None) -> Prediction:
        """One pass over `features` without their dimension R. `key` draws the dropout; None means none."""
        config = self.config
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        seq_mask = features["seq_mask"]
        pair_mask = seq_mask[:, None] * seq_mask[None]

        m, z = self.embedding(features["target_feat"], self._msa_rows(features, "msa_feat"), features["residue_index"])
        if config.recycles:
            m, z = self.recycling(m, z, recycled, features["aatype"])
        msa_mask = features["msa_mask"]
        if config.template.blocks:
            z += self.template(z, features, pair_mask, keys[0])
        if config.extra_msa.blocks:
            extra = (features[name] for name in ("extra_msa", "extra_has_deletion", "extra_deletion_value"))
            z = self.extra_msa(*extra, features["extra_msa_mask"], z, pair_mask, keys[1])
        if config.template.blocks and config.template.angles:
            m = replace_rows(m, self.template_angles(features["template_angle_feat"]), msa_mask.shape[0])
            msa_mask = jnp.concatenate([msa_mask, features["template_angle_mask"]])
        m, z = self.evoformer(m, z, msa_mask, pair_mask, keys[2])

        m_first = first_shard_of(m[0])
        structure = plddt = resolved = aligned_error = None
        positions = zeros((*seq_mask.shape, NUM_ATOMS, 3), _wide_dtype(z))
        if config.structure.layers:
            # Every context shard folds the whole chain, which is small work beside the trunk; the first one's counts.
            single = self.single(m_first)
            structure = self.structure(single, gather(z, 0), features["aatype"], seq_mask, keys[3])
            structure = jax.tree.map(first_shard_of, structure)
            positions = atom14_to_atom37(structure.atom14_positions, features["aatype"])
            plddt, resolved = first_shard_of(self.plddt(structure.single)), first_shard_of(self.resolved(single))
            if config.structure.aligned_error:
                aligned_error = self.aligned_error(z)
        return Prediction(
            masked_msa=self.masked_msa(m),
            distogram=self.distogram(z),
            recycled=Recycled(m_first.astype(_wide_dtype(z)), z.astype(_wide_dtype(z)), positions),
            structure=structure,
            plddt=plddt,
            resolved=resolved,
            aligned_error=aligned_error,
        )

    def _msa_rows(self, features: Example, name: str) -> jax.Array:
        """A feature [S, N, …] of the MSA, sharded along S, with zeros where there will be rows made of templates."""
        template = self.config.template
        rows = features["template_angle_feat"].shape[0] if template.blocks and template.angles else 0
        return shard_with_blanks(features[name], rows)

    def nothing_recycled(self, residues: int) -> Recycled:
        """What the first pass starts from: zeros."""
        config, wide = self.config, jnp.promote_types(self.policy.dtype, jnp.float32)
        return Recycled(
            zeros((residues, config.c_m), wide),
            zeros((residues, residues, config.c_z), wide, sharded=True),
            zeros((residues, NUM_ATOMS, 3), wide),
        )

    def loss(self, example: Example, key: jax.Array | None, choices: Choices) -> tuple[jax.Array, Metrics]:
        """The loss of an example and its parts, the gradient that of the last pass alone."""
        total, metrics, _ = self._judge(example, key, choices)
        return total, metrics

    def predict(self, example: Example) -> tuple[Metrics, Arrays, Arrays]:
        """Metrics, [N, N] maps sharded along rows, and predictions by residue, of a held-out example.

        All passes are made, none with dropout.
        """
        choices = Choices(jnp.int32(self.config.recycles), jnp.float32(1.0))
        _, metrics, prediction = self._judge(example, None, choices)
        if prediction.structure is not None:
            metrics |= violation_metrics(prediction.structure.atom14_positions, example)
        return metrics, *outputs(prediction, example)

    def _judge(
        self, example: Example, key: jax.Array | None, choices: Choices
    ) -> tuple[jax.Array, Metrics, Prediction]:
        def features(i: jax.Array | int) -> Example:
            return {name: _pass(x, i) if name in RESAMPLED else x for name, x in example.items()}

        def key_of(i: jax.Array | int) -> jax.Array | None:
            return None if key is None else jax.random.fold_in(key, i)

        recycled = self.nothing_recycled(example["seq_mask"].shape[0])
        if self.config.recycles:
            # Nothing is differentiated here, not even with respect to the parameters: the number of passes is traced.
            graphdef, params = nnx.split(self)
            frozen = nnx.merge(graphdef, jax.tree.map(lax.stop_gradient, params))
            recycled = lax.fori_loop(
                0, choices.recycles, lambda i, previous: frozen(features(i), previous, key_of(i)).recycled, recycled
            )
            recycled = jax.tree.map(lax.stop_gradient, recycled)
        last = features(choices.recycles)
        prediction = self(last, recycled, key_of(choices.recycles))
        return *self._losses(prediction, last, choices.clamped), prediction

    def _losses(self, prediction: Prediction, example: Example, clamped: jax.Array) -> tuple[jax.Array, Metrics]:
        loss = self.config.loss
        hidden = (self._msa_rows(example, name) for name in ("true_msa", "bert_mask"))
        msa, accuracy = masked_msa_loss(prediction.masked_msa, *hidden)
        distogram = distogram_loss(prediction.distogram, example["pseudo_beta"], example["pseudo_beta_mask"])
        parts = {"masked_msa": msa, "distogram": distogram}
        if prediction.structure is not None:
            parts |= structure_losses(prediction.structure, example, clamped, loss)
            parts |= confidence_losses(*prediction[-3:], prediction.structure, example)
        total = weighted_total(parts, jnp.sum(example["seq_mask"]), loss)
        named = {f"loss/{name}": part for name, part in parts.items()}
        return total, {"loss": total, **named, "masked_msa/accuracy": accuracy}


def outputs(prediction: Prediction, features: Example) -> tuple[Arrays, Arrays]:
    """What a prediction for an example says, as [N, N] maps sharded along rows and as values by residue.

    Maps: contact_probability, expected_distance in Å, aligned_error in Å. By residue: atom_positions [N, 37, 3] in Å,
    atom_mask [N, 37], plddt [N] from 0 to 100; and ptm [].
    """
    maps = {
        "contact_probability": contact_probability(prediction.distogram),
        "expected_distance": expected_distance(prediction.distogram),
    }
    if prediction.structure is None:
        return maps, {}
    seq_mask = features["seq_mask"]
    residues = {
        "atom_positions": prediction.recycled.positions,
        "atom_mask": jnp.asarray(ATOM37_EXISTS, seq_mask.dtype)[features["aatype"]] * seq_mask[:, None],
        "plddt": plddt(prediction.plddt),
    }
    if prediction.aligned_error is not None:
        maps["aligned_error"] = predicted_aligned_error(prediction.aligned_error)
        residues["ptm"] = ptm(prediction.aligned_error, seq_mask)
    return maps, residues


def draw_choices(config: ModelConfig, key: jax.Array) -> Choices:
    """The choices of a training step, the same for every example of its batch."""
    recycles_key, clamped_key = jax.random.split(key)
    recycles = jax.random.randint(recycles_key, (), 0, config.recycles + 1)
    clamped = jax.random.bernoulli(clamped_key, config.loss.clamp_probability)
    return Choices(recycles, clamped.astype(jnp.float32))


class RepresentationRegression(nnx.Module):
    """The Evoformer stack alone, given both representations and regressing them to zero (for data=synthetic)."""

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        self.dtype = policy.dtype
        self.evoformer = EvoformerStack(config, policy=policy, rngs=rngs)

    def loss(self, example: Example, key: jax.Array | None, choices: Choices) -> tuple[jax.Array, Metrics]:
        """The sum of the mean squares of the updated representations."""
        return self._judge(example, key)

    def predict(self, example: Example) -> tuple[Metrics, Arrays, Arrays]:
        """The metrics of a held-out example; there is nothing else to predict."""
        return self._judge(example, None)[1], {}, {}

    def _judge(self, example: Example, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        msa_mask, pair_mask = example["msa_mask"], example["pair_mask"]
        m, z = (shard(example[name], 0).astype(self.dtype) for name in ("msa", "pair"))
        m, z = self.evoformer(m, z, msa_mask, pair_mask, key)
        total = _mean_square(m, msa_mask) + _mean_square(z, pair_mask)
        return total, {"loss": total}


def _pass(x: jax.Array, i: jax.Array | int) -> jax.Array:
    return lax.dynamic_index_in_dim(x, i, keepdims=False)


def _wide_dtype(x: jax.Array) -> np.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _mean_square(x: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of squares over what is not padding; `x` [R, N, C] is sharded along rows, `mask` [R, N] is whole."""
    squares = jnp.square(x.astype(_wide_dtype(x))) * shard(mask, 0)[..., None]
    return sum_shards(jnp.sum(squares)) / (jnp.sum(mask) * x.shape[-1])


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
    cls = RepresentationRegression if config.data.source == "synthetic" else AlphaFold
    return cls(config.model, policy=Policy.of(config), rngs=nnx.Rngs(params=key))
