"""The template embedding: structures of related proteins, as an update of the pair representation and as MSA rows.

Dimensions: T templates, N residues (rows I and columns J of a pair), H heads, D channels of a head, C channels.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from evotrain.config import ModelConfig
from evotrain.model.attention import MASKED_LOGIT
from evotrain.model.distances import binned_distances
from evotrain.model.layers import Dense, LayerNorm, Policy, dropout_mask
from evotrain.model.stack import Stack
from evotrain.model.transition import Transition
from evotrain.model.triangle import TriangleAttention, TriangleMultiplication
from evotrain.parallel.context import shard, switch

DISTANCE_BINS = 39
FIRST_START, LAST_START = 3.25, 50.75  # Å
RESIDUE_CLASSES = 22  # 20 residue types, unknown, gap
# The direction to another residue in a residue's frame has channels, but AlphaFold's monomer models leave them zero.
DIRECTION = 3
PAIR_FEATURES = DISTANCE_BINS + 1 + 2 * RESIDUE_CLASSES + DIRECTION + 1
ANGLE_FEATURES = RESIDUE_CLASSES + 2 * 14 + 7  # 7 angles as sine and cosine, also of the alternative atom names; masks

Features = dict[str, jax.Array]


class TemplateBlock(nnx.Module):
    """One block of the template pair stack (AlphaFold 2, Suppl. Alg. 16); attention comes first, as in DeepMind's code.

    z [N, N, c_t] sharded along rows, whole pair_mask [N, N] -> (new z,). The configuration's c_z is c_t.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        self.dropout = config.pair_dropout
        self.attention_starting = TriangleAttention(config, starting=True, **built)
        self.attention_ending = TriangleAttention(config, starting=False, **built)
        self.triangle_outgoing = TriangleMultiplication(config, outgoing=True, **built)
        self.triangle_incoming = TriangleMultiplication(config, outgoing=False, **built)
        self.pair_transition = Transition(config.c_z, config.transition_factor, **built)

    def __call__(self, z: jax.Array, pair_mask: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array]:
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        residues, channels = pair_mask.shape[0], z.shape[-1]

        # Dropout is shared by all rows, for the ending node by all columns.
        by_row, by_column = (1, residues, channels), (residues, 1, channels)
        starting, ending, outgoing, incoming = (
            dropout_mask(key, self.dropout, shape, z.dtype)
            for key, shape in zip(keys, (by_row, by_column, by_row, by_row), strict=True)
        )
        if not isinstance(incoming, float):
            incoming = shard(incoming, 1)

        rows, columns = shard(pair_mask, 0), shard(pair_mask, 1)
        z += starting * self.attention_starting(z, rows)
        z = switch(z, 0, 1)
        z += ending * self.attention_ending(z, columns)
        z = switch(z, 1, 0)
        z += outgoing * self.triangle_outgoing(z, rows)
        z = switch(z, 0, 1)
        z += incoming * self.triangle_incoming(z, columns)
        z = switch(z, 1, 0)
        return (z + self.pair_transition(z),)


class TemplateEmbedding(nnx.Module):
    """An update of the pair representation from templates (AlphaFold 2, Suppl. Alg. 2, lines 9-12, 16 and 17).

    z [N, N, c_z] sharded along rows; the whole features template_aatype [T, N], template_mask [T], template_pseudo_beta
    [T, N, 3] in Å, template_pseudo_beta_mask [T, N] and template_backbone_mask [T, N]; whole pair_mask [N, N] -> update
    of z, zero where no template is there. The templates are embedded one after another.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        template = config.template
        self.remat = policy.remat != "none"
        narrow = replace(
            config,
            c_z=template.c_t,
            c_triangle=template.c_t,
            pair_heads=template.heads,
            pair_head_dim=None,
            transition_factor=template.transition_factor,
        )
        self.embed = Dense((PAIR_FEATURES,), (template.c_t,), kind="relu", **built)
        self.stack = Stack(TemplateBlock, narrow, template.blocks, **built)
        self.norm = LayerNorm(template.c_t, policy=policy)
        self.attention = TemplatePointwiseAttention(config, **built)

    def __call__(
        self, z: jax.Array, features: Features, pair_mask: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        mask_T = features["template_mask"]
        keys = None if key is None else jax.random.split(key, mask_T.shape[0])
        names = ("aatype", "pseudo_beta", "pseudo_beta_mask", "backbone_mask")
        templates = {name: features[f"template_{name}"] for name in names}

        def one(template: tuple[Features, jax.Array | None]) -> jax.Array:
            t = self.embed(pair_features(template[0], z.dtype))
            return self.norm(*self.stack.scan((t,), (pair_mask,), template[1]))

        def attend(z: jax.Array, t: jax.Array) -> jax.Array:
            return self.attention(z, t, mask_T)

        if self.remat:  # of a template only its embedding is kept, of the attention nothing
            one, attend = jax.checkpoint(one, prevent_cse=False), jax.checkpoint(attend)
        return attend(z, lax.map(one, (templates, keys)))


class TemplatePointwiseAttention(nnx.Module):
    """Attention of each residue pair to itself in the templates (AlphaFold 2, Suppl. Alg. 17).

    z [N, N, c_z] and templates [T, N, N, c_t], both sharded along rows, whole mask [T] -> update of z. Without any
    template the update is zero.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        heads, c_t, c_z = config.template.heads, (config.template.c_t,), (config.c_z,)
        per_head = (heads, config.template.c_t // heads)
        self.query = Dense(c_z, per_head, kind="qkv", bias=False, **built)
        self.key = Dense(c_t, per_head, kind="qkv", bias=False, **built)
        self.value = Dense(c_t, per_head, kind="qkv", bias=False, **built)
        self.output = Dense(per_head, c_z, kind="final", **built)

    def __call__(self, z_IJC: jax.Array, templates_TIJC: jax.Array, mask_T: jax.Array) -> jax.Array:
        wide = jnp.promote_types(z_IJC.dtype, jnp.float32)
        q_IJHD = self.query(z_IJC)
        q_IJHD *= q_IJHD.shape[-1] ** -0.5
        # With so few keys a sum of products is no matrix product: written as one it would be N² of the smallest kind.
        logits_TIJH = jnp.sum(q_IJHD[None] * self.key(templates_TIJC), axis=-1, dtype=wide)
        logits_TIJH = jnp.where(mask_T[:, None, None, None] > 0, logits_TIJH, MASKED_LOGIT)
        weights_TIJH = jax.nn.softmax(logits_TIJH, axis=0).astype(z_IJC.dtype)
        average_IJHD = jnp.sum(weights_TIJH[..., None] * self.value(templates_TIJC), axis=0)
        return self.output(average_IJHD) * jnp.any(mask_T > 0).astype(z_IJC.dtype)


def pair_features(template: Features, dtype: jnp.dtype) -> jax.Array:
    """What is embedded of one template, [I, J, 88] sharded along rows, zero where a backbone is missing.

    `template` holds the whole aatype [N], pseudo_beta [N, 3] in Å, pseudo_beta_mask [N] and backbone_mask [N].
    """
    beta_N3, beta_mask_N = template["pseudo_beta"], template["pseudo_beta_mask"]
    backbone_N, residues = template["backbone_mask"], template["aatype"].shape[0]
    backbone_IJ1 = (shard(backbone_N, 0)[:, None] * backbone_N[None])[..., None].astype(dtype)
    rows = backbone_IJ1.shape[0]

    bins = {"first": FIRST_START, "last": LAST_START, "bins": DISTANCE_BINS, "dtype": dtype}
    distances_IJB = binned_distances(shard(beta_N3, 0), beta_N3, **bins)
    beta_IJ1 = (shard(beta_mask_N, 0)[:, None] * beta_mask_N[None])[..., None].astype(dtype)
    classes_NC = jax.nn.one_hot(template["aatype"], RESIDUE_CLASSES, dtype=dtype)
    columns_IJC = jnp.broadcast_to(classes_NC[None], (rows, residues, RESIDUE_CLASSES))
    rows_IJC = jnp.broadcast_to(shard(classes_NC, 0)[:, None], (rows, residues, RESIDUE_CLASSES))
    direction_IJ3 = jnp.zeros((rows, residues, DIRECTION), dtype)
    parts = (distances_IJB, beta_IJ1, columns_IJC, rows_IJC, direction_IJ3, backbone_IJ1)
    return jnp.concatenate(parts, axis=-1) * backbone_IJ1


class TemplateAngles(nnx.Module):
    """Rows of the MSA representation from the templates' torsion angles (AlphaFold 2, Suppl. Alg. 2, lines 7-8).

    template_angle_feat [T, N, 57] -> [T, N, c_m], both whole: they are too few to be split.
    """

    def __init__(self, config: ModelConfig, *, policy: Policy, rngs: nnx.Rngs):
        built = {"policy": policy, "rngs": rngs}
        self.embed = Dense((ANGLE_FEATURES,), (config.c_m,), kind="relu", **built)
        self.project = Dense((config.c_m,), (config.c_m,), kind="relu", **built)

    def __call__(self, angle_feat_TNC: jax.Array) -> jax.Array:
        return self.project(jax.nn.relu(self.embed(angle_feat_TNC)))
