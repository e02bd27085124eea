"""DeepMind's losses of the structure module as functions of (inputs, labels and masks), part by part and summed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from alphafold.model import all_atom, folding, lddt, modules, r3
from alphafold.model import config as alphafold_config

from evotrain import residues

Arrays = dict[str, Any]

CONFIG = alphafold_config.model_config("model_3_ptm").model
CONFIDENCE = {
    "plddt": (modules.PredictedLDDTHead, "predicted_lddt"),
    "resolved": (modules.ExperimentallyResolvedHead, "experimentally_resolved"),
    "aligned_error": (modules.PredictedAlignedErrorHead, "predicted_aligned_error"),
}


def structure_losses(_: Arrays, prediction: Arrays, example: Arrays) -> Arrays:
    """The losses by our names, with the weights of fine-tuning."""
    config, batch, value = CONFIG.heads.structure_module, batch_of(example), value_of(prediction)
    backbone, violation = {"loss": 0.0}, {"loss": 0.0}
    with jax.numpy_rank_promotion("allow"), float32_is(prediction["positions"].dtype):
        head = hk.transform(lambda: folding.StructureModule(config, CONFIG.global_config).loss(value, batch))
        losses = head.apply({}, None)
        folding.backbone_loss(backbone, batch, value, config)
        folding.structural_violation_loss(violation, batch, value, config)
    return {
        "fape_backbone": backbone["loss"],
        "fape_sidechain": losses["sidechain_fape"],
        "chi": losses["chi_loss"],
        "angle_norm": losses["angle_norm_loss"],
        "violation": violation["loss"],
        "total": losses["loss"],
    }


@contextmanager
def float32_is(dtype: np.dtype) -> Iterator[None]:
    """Lets the reference cast masks to `dtype` where it says float32, so that it computes in float64 throughout."""
    namespace = SimpleNamespace(**vars(jnp) | {"float32": dtype})
    with ExitStack() as patches:
        for module in (all_atom, folding, lddt, modules):
            patches.enter_context(patch.object(module, "jnp", namespace))
        yield


def violation_metrics(positions: jax.Array, example: Arrays) -> Arrays:
    """The shares of residues with violations, by the reference's names."""
    batch = batch_of(example)
    with jax.numpy_rank_promotion("allow"):
        violations = folding.find_structural_violations(batch, positions, CONFIG.heads.structure_module)
        return folding.compute_violation_metrics(batch, positions, violations)


def confidence(name: str, params: Arrays, inputs: Arrays, example: Arrays) -> Arrays:
    """A head's logits and its loss."""
    cls, key = CONFIDENCE[name]

    def run() -> Arrays:
        head = cls(CONFIG.heads[key], CONFIG.global_config)
        given = {"structure_module": inputs["single"], "single": inputs["single"], "pair": inputs["z"]}
        value, batch = head(given, {}, is_training=True), batch_of(example)
        atoms = all_atom.atom14_to_atom37(inputs["positions"], batch)
        affine = jnp.concatenate([inputs["quaternion"], inputs["translation"]], axis=-1)[-1]
        structure = {"final_atom_positions": atoms, "final_affines": affine}
        loss = head.loss({key: value, "structure_module": structure} | value, batch)
        return {"logits": value["logits"], "loss": loss["loss"]}

    with jax.numpy_rank_promotion("allow"), float32_is(inputs["positions"].dtype):
        return hk.transform(run).apply(params, None)


def batch_of(example: Arrays) -> Arrays:
    """The example's labels as the reference names them, with what it computes from the residue types beforehand."""
    mask = example["seq_mask"][:, None]
    translation = example["rigidgroups_gt_frames"][:, 0, 9:]
    batch = example | {
        "backbone_affine_tensor": jnp.concatenate([example["backbone_quaternion"], translation], axis=-1),
        "backbone_affine_mask": example["rigidgroups_gt_exists"][:, 0],
        "atom14_atom_exists": residues.ATOM14_EXISTS[example["aatype"]] * mask,
        "atom37_atom_exists": residues.ATOM37_EXISTS[example["aatype"]] * mask,
        "atom14_atom_is_ambiguous": residues.ATOM14_IS_AMBIGUOUS[example["aatype"]],
        "residx_atom14_to_atom37": residues.ATOM14_TO_ATOM37[example["aatype"]],
        "residx_atom37_to_atom14": residues.ATOM37_TO_ATOM14[example["aatype"]],
    }
    if "clamped" in example:
        batch["use_clamped_fape"] = example["clamped"]
    return batch


def value_of(prediction: Arrays) -> Arrays:
    """A prediction as the reference's structure module returns it; only the last layer has atoms."""
    affine = jnp.concatenate([prediction["quaternion"], prediction["translation"]], axis=-1)
    sidechains = {
        "frames": r3.rigids_from_tensor_flat12(prediction["frames"][None]),
        "atom_pos": r3.vecs_from_tensor(prediction["positions"][None]),
        "angles_sin_cos": prediction["angles"],
        "unnormalized_angles_sin_cos": prediction["unnormalized_angles"],
    }
    return {"traj": affine, "sidechains": sidechains, "final_atom14_positions": prediction["positions"]}
