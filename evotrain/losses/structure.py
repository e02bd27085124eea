"""Losses of the structure module and of the heads that judge it, from a prediction and the features of its example.

Every array is whole, but the logits of the aligned error, which are sharded along rows.
"""

import jax

from evotrain.config import LossConfig
from evotrain.data.protein import CA_ATOM
from evotrain.losses.confidence import aligned_error_loss, plddt_loss, resolved_loss, well_resolved
from evotrain.losses.fape import backbone_fape, sidechain_fape
from evotrain.losses.renaming import renamed_target
from evotrain.losses.torsion import angle_norm_loss, chi_loss
from evotrain.losses.violation import violation_loss
from evotrain.model.rigid import Rigid, from_flat12
from evotrain.model.structure import Structure
from evotrain.residues import BACKBONE_GROUP

Example = dict[str, jax.Array]
Parts = dict[str, jax.Array]


def structure_losses(structure: Structure, example: Example, clamped: jax.Array, config: LossConfig) -> Parts:
    """The losses of a predicted structure by the name of their weight in `config`, each [].

    `clamped` is 1 where the backbone error is clamped and 0 where it is not. The violation is left out where its weight
    is zero, since it costs as much as the others together.
    """
    target, mask = _backbone(example)
    renamed = renamed_target(structure.atom14_positions, example)
    parts = {
        "fape_backbone": backbone_fape(structure.backbone, target, mask, clamped),
        "fape_sidechain": sidechain_fape(
            structure.frames,
            renamed.frames,
            example["rigidgroups_gt_exists"],
            structure.atom14_positions,
            renamed.positions,
            renamed.exists,
        ),
        "chi": chi_loss(structure.angles, example["aatype"], example["chi_angles"], example["chi_mask"]),
        "angle_norm": angle_norm_loss(structure.unnormalized_angles, example["seq_mask"]),
    }
    if config.violation:
        parts["violation"] = violation_loss(structure.atom14_positions, example)
    return parts


def confidence_losses(
    plddt: jax.Array, resolved: jax.Array, aligned_error: jax.Array | None, structure: Structure, example: Example
) -> Parts:
    """The losses of the heads' logits by the name of their weight, each [].

    plddt [N, 50], resolved [N, 37], aligned_error [I, J, 64] sharded along rows, or None where there is no such head.
    """
    positions, observed = example["all_atom_positions"][:, CA_ATOM], example["all_atom_mask"]
    predicted = structure.atom14_positions[:, CA_ATOM]
    parts = {
        "plddt": plddt_loss(plddt, predicted, positions, observed[:, CA_ATOM]),
        "resolved": resolved_loss(resolved, example["aatype"], observed, example["seq_mask"]),
    }
    if aligned_error is not None:
        last = jax.tree.map(lambda x: x[-1], structure.backbone)
        parts["aligned_error"] = aligned_error_loss(aligned_error, last, *_backbone(example))
    counts = well_resolved(example["resolution"])
    return {name: part * counts for name, part in parts.items()}


def _backbone(example: Example) -> tuple[Rigid, jax.Array]:
    """The observed backbone frames [N] in Å, and where there are any [N]."""
    frames = from_flat12(example["rigidgroups_gt_frames"][:, BACKBONE_GROUP])
    return frames, example["rigidgroups_gt_exists"][:, BACKBONE_GROUP]
