"""What each key may say by itself: the ranges of numbers, and the keys that another key switches off."""

import math
import re
from dataclasses import fields

from evotrain.config import StructureConfig

STRUCTURE_LOSSES = ("fape_backbone", "fape_sidechain", "chi", "angle_norm", "plddt", "resolved", "violation")
LOSS_PARTS = ("masked_msa", "distogram", *STRUCTURE_LOSSES, "aligned_error")

# The keys of one set of a mixture, which have the limits of `data.…`.
SET_OF_MIXTURE = re.compile(r"^data\.sets\.[^.]*\.")

# The smallest value of each whole number; null passes where the schema allows it. −1 in the mesh: the rest.
AT_LEAST = {
    "seed": 0,
    "steps": 1,
    "batch_size": 1,
    "eval_every": 0,
    "model.blocks": 1,
    "model.c_m": 1,
    "model.c_z": 1,
    "model.msa_heads": 1,
    "model.msa_head_dim": 1,
    "model.pair_heads": 1,
    "model.pair_head_dim": 1,
    "model.c_outer": 1,
    "model.c_triangle": 1,
    "model.transition_factor": 1,
    "model.recycles": 0,
    "model.extra_msa.blocks": 0,
    "model.extra_msa.c_m": 1,
    "model.extra_msa.heads": 1,
    "model.template.blocks": 0,
    "model.template.c_t": 1,
    "model.template.heads": 1,
    "model.template.transition_factor": 1,
    "model.structure.layers": 0,
    "model.structure.c_s": 1,
    "model.structure.heads": 1,
    "model.structure.scalar_dim": 1,
    "model.structure.query_points": 1,
    "model.structure.value_points": 1,
    "model.structure.c_sidechain": 1,
    "model.structure.c_confidence": 1,
    "mesh.data": -1,
    "mesh.fsdp": -1,
    "mesh.context": -1,
    "mesh.microbatch": 1,
    "mesh.simulate": 0,
    "target.chips": 1,
    "target.devices_per_chip": 1,
    "target.linked_devices": 1,
    "optimizer.warmup_examples": 0,
    "optimizer.decay_examples": 1,
    "optimizer.max_skipped": 1,
    "data.crop": 1,
    "data.msa_clusters": 1,
    "data.extra_msa": 0,
    "data.templates": 0,
    "data.eval_examples": 1,
    "data.workers": 0,
    "data.prefetch": 1,
    "data.length": 1,
    "data.depth": 1,
    "data.block_deletions": 0,
    "data.max_rows": 1,
    "kernels.chunk_rows": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "logger.every": 1,
    "logger.timeout": 1,
    "evaluate.examples": 1,
    "predict.recycles": 0,
    "prepare.workers": 1,
    "prepare.proteins_per_file": 1,
}

AT_MOST = {"seed": 2**32 - 1}  # jax makes its keys from 32 bits: a larger seed would repeat a smaller one

# The interval of each other number, and whether it holds its ends.
ABOVE_ZERO, FROM_ZERO = ("(", 0.0, math.inf, ")"), ("[", 0.0, math.inf, ")")
BELOW_ONE, FRACTION = ("[", 0.0, 1.0, ")"), ("(", 0.0, 1.0, "]")
INTERVALS = {
    "model.msa_dropout": BELOW_ONE,
    "model.pair_dropout": BELOW_ONE,
    "model.structure.dropout": BELOW_ONE,
    **{f"model.loss.{part}": FROM_ZERO for part in LOSS_PARTS},
    "model.loss.clamp_probability": ("[", 0.0, 1.0, "]"),
    "target.peak_tflops": ABOVE_ZERO,
    "target.memory_gib": ABOVE_ZERO,
    "target.memory_gbps": ABOVE_ZERO,
    "target.link_gbps": ABOVE_ZERO,
    "target.network_gbps": ABOVE_ZERO,
    "target.usd_per_chip_hour": FROM_ZERO,
    "optimizer.lr": ABOVE_ZERO,
    "optimizer.b1": BELOW_ONE,
    "optimizer.b2": BELOW_ONE,
    "optimizer.eps": ABOVE_ZERO,
    "optimizer.decay_factor": FRACTION,
    "optimizer.clip_norm": ABOVE_ZERO,
    "optimizer.ema_decay": BELOW_ONE,
    "data.mask_fraction": FRACTION,
    "data.coupling": FROM_ZERO,
    "data.family_noise": FROM_ZERO,
    "data.branch_sweeps": ABOVE_ZERO,
    "data.eval_fraction": BELOW_ONE,
    "data.timeout": ABOVE_ZERO,
    "data.block_fraction": FRACTION,
    "data.spatial_crop": ("[", 0.0, 1.0, "]"),
    "data.max_resolution": ABOVE_ZERO,
    "data.max_repeat": FRACTION,
    "data.min_plddt": ("[", 0.0, 100.0, "]"),
    "data.weight": ABOVE_ZERO,
    "predict.tolerance": FROM_ZERO,
}

# Keys without effect, by the value of another key that takes it from them.
SWITCHED_OFF = {
    **{f"model.extra_msa.{key}": ("model.extra_msa.blocks", 0) for key in ("c_m", "heads")},
    **{
        f"model.template.{key}": ("model.template.blocks", 0) for key in ("c_t", "heads", "transition_factor", "angles")
    },
    **{
        f"model.structure.{item.name}": ("model.structure.layers", 0)
        for item in fields(StructureConfig)
        if item.name != "layers"
    },
    **{f"model.loss.{part}": ("model.structure.layers", 0) for part in (*STRUCTURE_LOSSES, "clamp_probability")},
    "model.loss.aligned_error": ("model.structure.aligned_error", False),
    "predict.recycles": ("model.recycles", 0),
    "predict.tolerance": ("model.recycles", 0),
    "data.extra_msa": ("model.extra_msa.blocks", 0),
    "data.templates": ("model.template.blocks", 0),
    "model.position": ("data.source", "synthetic"),
    "data.block_fraction": ("data.block_deletions", 0),
    "optimizer.decay_factor": ("optimizer.decay_examples", None),
    "optimizer.clip_norm": ("optimizer.clip", "none"),
    "logger.project": ("logger.wandb", "off"),
    "logger.entity": ("logger.wandb", "off"),
    "logger.timeout": ("logger.wandb", "off"),
}
