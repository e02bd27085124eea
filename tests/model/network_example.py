"""A small network with all of AlphaFold 2's parts, its parameters, and a random example for it.

All widths differ, so that a transposition shows, and no parameter is zero. Padding is garbage under a mask: a residue
in the middle, those at the end, and the last row of each kind.
"""

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from parity import random_params

from evotrain.config import ExtraMSAConfig, LossConfig, ModelConfig, StructureConfig, TemplateConfig
from evotrain.data.features.labels import structure_labels
from evotrain.data.features.templates import template_features
from evotrain.data.protein import GAP, NUM_ATOMS, Templates, pseudo_beta
from evotrain.model.layers import Policy
from evotrain.model.network import RESAMPLED, AlphaFold
from evotrain.residues import ATOM37_EXISTS
from evotrain.weights import save_alphafold

Arrays = dict[str, Any]

PASSES, RESIDUES, PADDED = 3, 8, 2
ROWS = {"msa": 5, "extra": 6, "template": 3}
CONFIG = ModelConfig(
    blocks=2,
    c_m=16,
    c_z=12,
    msa_heads=2,
    pair_heads=3,
    c_outer=5,
    c_triangle=7,
    transition_factor=2,
    recycles=PASSES - 1,
    extra_msa=ExtraMSAConfig(blocks=1, c_m=10, heads=2),
    template=TemplateConfig(blocks=1, c_t=6, heads=3, transition_factor=3),
    structure=StructureConfig(
        layers=2, c_s=14, heads=3, scalar_dim=4, query_points=2, value_points=5, c_sidechain=9, c_confidence=11,
        aligned_error=True,
    ),
    # As in fine-tuning, where every loss has a weight.
    loss=LossConfig(resolved=0.01, violation=1.0, aligned_error=0.1, scale_by_length=False),
)  # fmt: skip


@cache
def example() -> tuple[Arrays, Templates]:
    """Features with their dimension R, and the templates that they show."""
    rng = np.random.default_rng(0)
    there = np.ones(RESIDUES)
    there[2] = there[-PADDED:] = 0
    msa, extra = ((PASSES, ROWS[kind], RESIDUES) for kind in ("msa", "extra"))
    masks = {"msa_mask": rng.random(msa) < 0.8, "extra_msa_mask": rng.random(extra) < 0.8}
    for mask in masks.values():
        mask[:, 0], mask[:, -1] = True, False
    templates = random_templates(there)
    floats = {
        **{name: mask * there for name, mask in masks.items()},
        **template_features(templates, np.arange(ROWS["template"]), slice(None)),
        "template_mask": np.arange(ROWS["template"]) < ROWS["template"] - 1,
        "seq_mask": there,
        "target_feat": rng.normal(size=(RESIDUES, 22)),
        "msa_feat": rng.normal(size=(*msa, 49)),
        "extra_has_deletion": rng.random(extra) < 0.3,
        "extra_deletion_value": rng.random(extra),
    }
    whole = {
        "aatype": rng.integers(0, 21, RESIDUES),
        "residue_index": np.cumsum(rng.choice([1, 40], RESIDUES, p=[0.7, 0.3])),
        "extra_msa": rng.integers(0, 23, extra),
        "template_aatype": templates.aatype,
    }
    typed = {name: x.astype(np.float32) for name, x in floats.items()}
    return typed | {name: x.astype(np.int32) for name, x in whole.items()}, templates


@cache
def labels() -> Arrays:
    """What the losses compare with, of atoms anywhere, one in twenty unobserved."""
    features, _ = example()
    aatype, msa_mask, rng = features["aatype"], features["msa_mask"], np.random.default_rng(3)
    positions, observed = random_atoms(ATOM37_EXISTS[aatype] * features["seq_mask"][:, None], unobserved=0.05)
    beta, beta_mask = pseudo_beta(aatype, positions, observed)
    return structure_labels(aatype, positions, observed) | {
        "pseudo_beta": beta,
        "pseudo_beta_mask": beta_mask.astype(np.float32),
        "true_msa": rng.integers(0, 23, msa_mask.shape, np.int32),
        "bert_mask": (msa_mask * (rng.random(msa_mask.shape) < 0.4)).astype(np.float32),
        "resolution": np.float32(2.0),
    }


def random_templates(there: np.ndarray) -> Templates:
    """Atoms anywhere, one in ten unobserved, of the residues that are there; the last template is empty."""
    aatype = np.random.default_rng(1).integers(0, GAP + 1, (ROWS["template"], RESIDUES))
    exists = np.append(ATOM37_EXISTS, np.zeros((1, NUM_ATOMS)), axis=0)[aatype] * there[:, None]
    exists[-1] = 0
    positions, observed = random_atoms(exists, unobserved=0.1)
    return Templates(aatype=aatype.astype(np.int32), atom_positions=positions, atom_mask=observed)


def random_atoms(exists: np.ndarray, unobserved: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions [..., 37, 3] and mask [..., 37], float32."""
    rng = np.random.default_rng(2)
    observed = exists * (rng.random(exists.shape) >= unobserved)
    positions = 4 * rng.normal(size=(*exists.shape, 3)) * observed[..., None]
    return positions.astype(np.float32), observed.astype(np.float32)


def pass_of(features: Arrays, i: int) -> Arrays:
    """What pass i sees."""
    return {name: x[i] if name in RESAMPLED else x for name, x in features.items()}


def abstract_network(dtype: str) -> AlphaFold:
    """The network without values, computing in `dtype`."""
    return nnx.eval_shape(lambda: AlphaFold(CONFIG, policy=Policy(dtype=jnp.dtype(dtype)), rngs=nnx.Rngs(0)))


@cache
def published() -> Arrays:
    """Its parameters under their published names."""
    shapes = nnx.to_pure_dict(nnx.state(abstract_network("float32"), nnx.Param))
    return save_alphafold(random_params(shapes))
