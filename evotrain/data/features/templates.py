"""Templates, structures of related proteins along the query: which an example shows, and their features.

Dimensions: T templates of an example, N residues.
"""

import numpy as np

from evotrain.data.features.crop import Residues
from evotrain.data.features.labels import PSI, torsion_angles
from evotrain.data.protein import C_ATOM, CA_ATOM, GAP, N_ATOM, NUM_ATOMS, Templates, pseudo_beta

# A training example draws its templates from so many of the most trusted (AlphaFold 2, Suppl. 1.2.2).
CANDIDATES = 20
TEMPLATE_CLASSES = GAP + 1


def choose_templates(available: Templates | None, rng: np.random.Generator | None, most: int) -> np.ndarray:
    """Which templates an example shows: int [k] with k ≤ `most`.

    With a generator min(k, `most`) random ones of the 20 best n, where k is uniform over 0 … n; without one the best.
    """
    count = min(len(available.aatype), CANDIDATES) if available else 0
    if rng is None:
        return np.arange(min(count, most))
    shown = int(rng.integers(count + 1))
    return rng.permutation(count)[: min(shown, most)]


def template_features(
    available: Templates | None, chosen: np.ndarray, residues: Residues, *, angles: bool = True
) -> dict[str, np.ndarray]:
    """Features of the `chosen` templates, int [T], over the crop `residues`; float32 where not said otherwise.

    Returns template_aatype int32 [T, N], template_mask [T], template_pseudo_beta [T, N, 3] in Å,
    template_pseudo_beta_mask [T, N], template_backbone_mask [T, N] (N, Cα and C observed); with `angles`
    template_angle_feat [T, N, 57] (residue type, torsion angles as sine and cosine, the same with alternative names,
    their mask), template_angle_mask [T, N] (psi observed). With no template available, T and N are 0.
    """
    if available is None:
        available, residues = _NO_TEMPLATES, slice(0)
    aatype = available.aatype[chosen][:, residues]
    positions, mask = available.atom_positions[chosen][:, residues], available.atom_mask[chosen][:, residues]
    beta, beta_mask = pseudo_beta(aatype, positions, mask)
    features = {
        "template_aatype": aatype,
        "template_mask": np.ones(len(chosen), np.float32),
        "template_pseudo_beta": beta,
        "template_pseudo_beta_mask": beta_mask,
        "template_backbone_mask": mask[..., [N_ATOM, CA_ATOM, C_ATOM]].prod(-1),
    }
    if not angles:
        return features
    torsions = torsion_angles(aatype, positions, mask)
    # Omega and phi need the residue before, which the crop may have left out.
    numbers = np.arange(available.aatype.shape[1])[residues]
    torsions.mask[:, 1:, :PSI] *= (np.diff(numbers) == 1)[:, None]
    one_hot = np.eye(TEMPLATE_CLASSES, dtype=np.float32)[aatype]
    flat = [x.reshape(*aatype.shape, x.shape[-2] * 2) for x in (torsions.sin_cos, torsions.alternative)]
    return features | {
        "template_angle_feat": np.concatenate([one_hot, *flat, torsions.mask], -1),
        "template_angle_mask": torsions.mask[..., PSI],
    }


_NO_TEMPLATES = Templates(
    aatype=np.zeros((0, 0), np.int32),
    atom_positions=np.zeros((0, 0, NUM_ATOMS, 3), np.float32),
    atom_mask=np.zeros((0, 0, NUM_ATOMS), np.float32),
)
