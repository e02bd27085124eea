"""Templates: structures of related proteins along the query, read from AlphaFold's feature arrays, and their features.

Dimensions: K templates of a protein, T templates of an example, N residues.
"""

import zipfile
from pathlib import Path

import numpy as np

from evotrain.data.features.labels import PSI, torsion_angles
from evotrain.data.protein import C_ATOM, CA_ATOM, GAP, N_ATOM, NUM_ATOMS, RESIDUES, UNKNOWN, Templates, pseudo_beta
from evotrain.errors import DataError

# A training example draws its templates from so many of the most trusted (AlphaFold 2, Suppl. 1.2.2).
CANDIDATES = 20
# The order in which HHblits and HHsearch number residues; AlphaFold writes template_aatype in it.
HHBLITS_LETTERS = "ACDEFGHIKLMNPQRSTVWYX-"
TEMPLATE_CLASSES = len(HHBLITS_LETTERS)
_FROM_HHBLITS = np.array([f"{RESIDUES}X-".index(letter) for letter in HHBLITS_LETTERS], np.int32)

_MASK_NAMES = ("template_all_atom_masks", "template_all_atom_mask")


def read_templates(path: Path, length: int) -> Templates | None:
    """The templates of a protein of `length` residues, the most trusted first; None if the file holds none.

    The `.npz` file holds AlphaFold's template_aatype (one-hot [K, N, 22] in HHblits order, or int [K, N] in
    AlphaFold's), template_all_atom_positions [K, N, 37, 3] in Å and template_all_atom_masks [K, N, 37] (or
    …_mask), and may hold template_sum_probs [K] or [K, 1], by which they are ranked, else they keep their order.
    Raises DataError for a file that cannot be read or that does not hold this.
    """
    arrays = _read_arrays(path)
    count = len(arrays["template_aatype"])
    if not count:  # AlphaFold writes arrays of other shapes then
        return None
    expected = {
        "template_aatype": ((count, length), (count, length, TEMPLATE_CLASSES)),
        "template_all_atom_positions": ((count, length, NUM_ATOMS, 3),),
        "template_all_atom_masks": ((count, length, NUM_ATOMS),),
        "template_sum_probs": ((count,), (count, 1)),
    }
    for name, x in arrays.items():
        if x.shape not in expected[name]:
            wanted = " or ".join(str(list(shape)) for shape in expected[name])
            raise DataError(f"{path}: {name} has the shape {list(x.shape)}, expected {wanted}, for {length} residues.")
    aatype = _aatype(path, arrays["template_aatype"])
    mask = arrays["template_all_atom_masks"].astype(np.float32)
    # A file may hold anything, also NaN, where no atom was observed.
    positions = np.where(mask[..., None] > 0, arrays["template_all_atom_positions"], 0).astype(np.float32)
    if not (np.isfinite(positions).all() and np.isin(mask, (0, 1)).all()):
        raise DataError(f"{path}: an observed atom has no finite coordinates, or a mask is neither 0 nor 1.")
    ranked = np.arange(count)
    if "template_sum_probs" in arrays:
        ranked = np.argsort(-arrays["template_sum_probs"].reshape(count), kind="stable")
    return Templates(aatype=aatype[ranked], atom_positions=positions[ranked], atom_mask=mask[ranked])


def choose_templates(available: Templates | None, rng: np.random.Generator | None, most: int) -> np.ndarray:
    """Which templates an example shows: int [k] with k ≤ `most`.

    With a generator min(k, `most`) random ones of the 20 best n, where k is uniform over 0 … n; without one the best.
    """
    count = min(len(available.aatype), CANDIDATES) if available else 0
    if rng is None:
        return np.arange(min(count, most))
    shown = int(rng.integers(count + 1))
    return rng.permutation(count)[: min(shown, most)]


def template_features(available: Templates | None, chosen: np.ndarray, window: slice) -> dict[str, np.ndarray]:
    """Features of the `chosen` templates, int [T], over the residues of `window`; float32 where not said otherwise.

    Returns template_aatype int32 [T, N], template_mask [T], template_pseudo_beta [T, N, 3] in Å,
    template_pseudo_beta_mask [T, N], template_backbone_mask [T, N] (N, Cα and C observed), template_angle_feat
    [T, N, 57] (residue type, torsion angles as sine and cosine, the same with alternative names, their mask),
    template_angle_mask [T, N] (psi observed). With no template available, T and N are 0.
    """
    if available is None:
        available = _NO_TEMPLATES
    aatype = available.aatype[chosen, window]
    positions, mask = available.atom_positions[chosen, window], available.atom_mask[chosen, window]
    beta, beta_mask = pseudo_beta(aatype, positions, mask)
    torsions = torsion_angles(aatype, positions, mask)
    one_hot = np.eye(TEMPLATE_CLASSES, dtype=np.float32)[aatype]
    flat = [x.reshape(*aatype.shape, x.shape[-2] * 2) for x in (torsions.sin_cos, torsions.alternative)]
    return {
        "template_aatype": aatype,
        "template_mask": np.ones(len(chosen), np.float32),
        "template_pseudo_beta": beta,
        "template_pseudo_beta_mask": beta_mask,
        "template_backbone_mask": mask[..., [N_ATOM, CA_ATOM, C_ATOM]].prod(-1),
        "template_angle_feat": np.concatenate([one_hot, *flat, torsions.mask], -1),
        "template_angle_mask": torsions.mask[..., PSI],
    }


_NO_TEMPLATES = Templates(
    aatype=np.zeros((0, 0), np.int32),
    atom_positions=np.zeros((0, 0, NUM_ATOMS, 3), np.float32),
    atom_mask=np.zeros((0, 0, NUM_ATOMS), np.float32),
)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays that are used, as numbers, under AlphaFold's first name of each. Never unpickles."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mask_name = next((name for name in _MASK_NAMES if name in file), _MASK_NAMES[0])
            needed = ("template_aatype", "template_all_atom_positions", mask_name)
            missing = [name for name in needed if name not in file]
            if missing:
                raise DataError(f"{path}: has no {missing[0]}; it needs {', '.join(needed)}.")
            found = [name for name in (*needed, "template_sum_probs") if name in file]
            arrays = {_MASK_NAMES[0] if name == mask_name else name: file[name] for name in found}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as an .npz file of plain arrays ({error}).") from None
    for name, x in arrays.items():
        if x.dtype.kind not in "biuf" or not x.ndim:
            raise DataError(f"{path}: {name} is no array of numbers.")
    return arrays


def _aatype(path: Path, given: np.ndarray) -> np.ndarray:
    """Residue types int32 [K, N] in AlphaFold's order."""
    if given.ndim == 3:
        return _FROM_HHBLITS[given.argmax(-1)]
    if given.dtype.kind == "f" or (given.size and not 0 <= given.min() <= given.max() <= GAP):
        raise DataError(
            f"{path}: template_aatype holds values that are no residue types (0 to {UNKNOWN}, {GAP} a gap)."
        )
    return given.astype(np.int32)
