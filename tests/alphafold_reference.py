"""DeepMind's whole network: one pass of it as a function, its configuration, its features."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from alphafold.model import config as alphafold_config
from alphafold.model import modules, quat_affine

from evotrain import residues
from evotrain.config import ModelConfig
from evotrain.data.protein import NUM_ATOMS, Templates

Arrays = dict[str, Any]


def published_config(name: str) -> Any:
    """The configuration of a published model with the names of its published parameters: float32, without dropout."""
    config = alphafold_config.model_config(name)
    trunk = config.model.embeddings_and_evoformer
    for stack in (trunk.evoformer, trunk.template.template_pair_stack):
        for edges in ("outgoing", "incoming"):
            stack[f"triangle_multiplication_{edges}"].fuse_projection_weights = False
    assert not trunk.evoformer.outer_product_mean.first
    config.model.global_config.bfloat16 = False
    config.model.global_config.deterministic = True
    config.model.heads.structure_module.compute_in_graph_metrics = False
    return config.model


def sized_config(config: ModelConfig) -> Any:
    """The reference's configuration of our network."""
    sized = published_config("model_1_ptm")
    trunk, heads = sized.embeddings_and_evoformer, sized.heads
    trunk.evoformer_num_block, trunk.extra_msa_stack_num_block = config.blocks, config.extra_msa.blocks
    trunk.msa_channel, trunk.pair_channel = config.c_m, config.c_z
    trunk.extra_msa_channel, trunk.seq_channel = config.extra_msa.c_m, config.structure.c_s
    _size_block(trunk.evoformer, config)
    _size_template(trunk.template, config)
    structure, ours = heads.structure_module, config.structure
    structure.num_layer, structure.num_channel, structure.num_head = ours.layers, ours.c_s, ours.heads
    structure.num_scalar_qk = structure.num_scalar_v = ours.scalar_dim
    structure.num_point_qk, structure.num_point_v = ours.query_points, ours.value_points
    structure.sidechain.num_channel = ours.c_sidechain
    heads.predicted_lddt.num_channels = ours.c_confidence
    if not ours.aligned_error:
        heads.predicted_aligned_error.weight = 0.0
    return sized


def _size_block(block: Any, config: ModelConfig) -> None:
    for stack in ("row_attention_with_pair_bias", "column_attention"):
        block[f"msa_{stack}"].num_head = config.msa_heads
    for node in ("starting", "ending"):
        block[f"triangle_attention_{node}_node"].num_head = config.pair_heads
    for edges in ("outgoing", "incoming"):
        block[f"triangle_multiplication_{edges}"].num_intermediate_channel = config.c_triangle
    for kind in ("msa", "pair"):
        block[f"{kind}_transition"].num_intermediate_factor = config.transition_factor
    block.outer_product_mean.num_outer_channel = config.c_outer


def _size_template(template: Any, config: ModelConfig) -> None:
    c_t, heads, pairs = config.template.c_t, config.template.heads, template.template_pair_stack
    template.enabled, template.embed_torsion_angles = config.template.blocks > 0, config.template.angles
    pairs.num_block = config.template.blocks
    for attention in (template.attention, pairs.triangle_attention_starting_node, pairs.triangle_attention_ending_node):
        attention.num_head, attention.key_dim, attention.value_dim = heads, c_t, c_t
    for edges in ("outgoing", "incoming"):
        pairs[f"triangle_multiplication_{edges}"].num_intermediate_channel = c_t
    pairs.pair_transition.num_intermediate_factor = config.template.transition_factor


def network(config: Any, *, loss: bool = False) -> hk.Transformed:
    """(features of one pass, recycled) -> outputs of heads and representations; with `loss` a pair, the loss first."""

    def one_pass(features: Arrays, recycled: Arrays) -> Any:
        with jax.numpy_rank_promotion("allow"), hk.name_scope("alphafold"):
            found = modules.AlphaFoldIteration(config, config.global_config)(
                ensembled_batch=jax.tree.map(lambda x: jnp.asarray(x)[None], features),
                non_ensembled_batch=recycled,
                is_training=True,  # which does not switch dropout on here, but the processing in chunks off
                compute_loss=loss,
            )
            return found[::-1] if loss else found

    return hk.transform(one_pass)


def one_pass_features(features: Arrays, templates: Templates) -> Arrays:
    """Our features of one pass as the reference reads them; it makes its own features of the templates' atoms."""
    aatype, seq_mask = features["aatype"], features["seq_mask"]
    ours = ("aatype", "residue_index", "seq_mask", "target_feat", "msa_feat", "msa_mask", "extra_msa", "template_mask")
    ours += ("extra_has_deletion", "extra_deletion_value", "extra_msa_mask")
    return {name: features[name] for name in ours} | {
        "seq_length": np.int32(seq_mask.sum()),
        "atom14_atom_exists": residues.ATOM14_EXISTS[aatype] * seq_mask[:, None],
        "atom37_atom_exists": residues.ATOM37_EXISTS[aatype] * seq_mask[:, None],
        "residx_atom14_to_atom37": residues.ATOM14_TO_ATOM37[aatype],
        "residx_atom37_to_atom14": residues.ATOM37_TO_ATOM14[aatype],
        "template_aatype": templates.aatype,
        "template_all_atom_positions": templates.atom_positions,
        "template_all_atom_masks": templates.atom_mask,
        "template_pseudo_beta": features["template_pseudo_beta"],
        "template_pseudo_beta_mask": features["template_pseudo_beta_mask"],
    }


def one_pass_labels(labels: Arrays, aatype: np.ndarray) -> Arrays:
    """Our labels of one pass as the reference reads them; the backbone error is clamped."""
    backbone = labels["rigidgroups_gt_frames"][:, 0]
    rotation = [[backbone[:, 3 * row + column] for column in range(3)] for row in range(3)]
    return labels | {
        "backbone_affine_tensor": np.concatenate([quat_affine.rot_to_quat(rotation), backbone[:, 9:]], axis=-1),
        "backbone_affine_mask": labels["rigidgroups_gt_exists"][:, 0],
        "atom14_atom_is_ambiguous": residues.ATOM14_IS_AMBIGUOUS[aatype],
        "use_clamped_fape": np.float32(1.0),
    }


def nothing_recycled(length: int, config: ModelConfig) -> Arrays:
    """What the first pass starts from; left to itself the reference takes the published widths."""
    shapes = {
        "prev_msa_first_row": (length, config.c_m),
        "prev_pair": (length, length, config.c_z),
        "prev_pos": (length, NUM_ATOMS, 3),
    }
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def published_params(name: str, config: ModelConfig) -> Arrays:
    """All parameters of a published model, as zeros that take no memory; `config` has its widths."""
    length, per_residue, per_row = 2, (2,), (1, 2)
    atoms = (*per_row, NUM_ATOMS)
    empty = Templates(
        aatype=np.zeros(per_row, np.int32),
        atom_positions=np.zeros((*atoms, 3), np.float32),
        atom_mask=np.zeros(atoms, np.float32),
    )
    floats = dict.fromkeys(("msa_mask", "extra_has_deletion", "extra_deletion_value", "extra_msa_mask"), per_row) | {
        "seq_mask": per_residue,
        "target_feat": (*per_residue, 22),
        "msa_feat": (*per_row, 49),
        "template_mask": (1,),
        "template_pseudo_beta": (*per_row, 3),
        "template_pseudo_beta_mask": per_row,
    }
    whole = {"aatype": per_residue, "residue_index": per_residue, "extra_msa": per_row}
    features = {key: np.zeros(shape, np.float32) for key, shape in floats.items()}
    features |= {key: np.zeros(shape, np.int32) for key, shape in whole.items()}
    init = network(published_config(name)).init
    made = jax.eval_shape(init, jax.random.key(0), one_pass_features(features, empty), nothing_recycled(length, config))
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), made)
