"""What the structure losses compare with, from the observed atoms: 14-atom positions, rigid frames, torsion angles.

Atoms that were not observed have position 0; what depends on them is computed all the same, and its mask is 0. Legend:
N residues; 8 rigid groups (backbone, pre-omega, phi, psi, chi1-4) and 7 torsion angles in the order of the last seven.
"""

from typing import NamedTuple

import numpy as np

from evotrain import residues
from evotrain.data.protein import C_ATOM, CA_ATOM, N_ATOM, UNKNOWN
from evotrain.residues import BACKBONE_GROUP, NUM_CHI

O_ATOM = residues.ATOM_INDEX["O"]
PSI = 2  # place of psi among the torsion angles
# Keeps the length of a vanishing vector finite, in Å².
_EPSILON = 1e-8


class Torsions(NamedTuple):
    """Torsion angles omega, phi, psi, chi1-4 as (sine, cosine)."""

    sin_cos: np.ndarray  # [..., N, 7, 2]
    alternative: np.ndarray  # [..., N, 7, 2], with the other name of atoms that cannot be told apart
    mask: np.ndarray  # [..., N, 7]


def structure_labels(aatype: np.ndarray, positions: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Labels of the structure module, float32, under AlphaFold's names.

    `aatype` is int [N], `positions` [N, 37, 3] in Å, `mask` [N, 37]. Returns all_atom_positions [N, 37, 3],
    all_atom_mask [N, 37], atom14_gt_positions [N, 14, 3], atom14_gt_exists [N, 14], the same two with the alternative
    names of ambiguous atoms (atom14_alt_gt_…), rigidgroups_gt_frames [N, 8, 12], rigidgroups_alt_gt_frames [N, 8, 12],
    rigidgroups_gt_exists [N, 8], chi_angles [N, 4] in radians and chi_mask [N, 4]. A frame is its rotation, row by row,
    and its origin.
    """
    positions, mask = positions.astype(np.float32), mask.astype(np.float32)
    atoms14, exists14 = atom14(aatype, positions, mask)
    swap = residues.ATOM14_SWAP[aatype]
    frames, alternative, frames_exist = rigid_group_frames(aatype, positions, mask)
    torsions = torsion_angles(aatype, positions, mask)
    chi_mask = torsions.mask[:, -NUM_CHI:]
    chi = torsions.sin_cos[:, -NUM_CHI:]
    return {
        "all_atom_positions": positions,
        "all_atom_mask": mask,
        "atom14_gt_positions": atoms14,
        "atom14_gt_exists": exists14,
        "atom14_alt_gt_positions": np.take_along_axis(atoms14, swap[..., None], 1),
        "atom14_alt_gt_exists": np.take_along_axis(exists14, swap, 1),
        "rigidgroups_gt_frames": frames,
        "rigidgroups_alt_gt_frames": alternative,
        "rigidgroups_gt_exists": frames_exist,
        "chi_angles": np.arctan2(chi[..., 0], chi[..., 1]) * chi_mask,
        "chi_mask": chi_mask,
    }


def atom14(aatype: np.ndarray, positions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions [N, 14, 3] and mask [N, 14] of the atoms that the residue types [N] have."""
    index = residues.ATOM14_TO_ATOM37[aatype]
    exists = np.take_along_axis(mask, index, 1) * residues.ATOM14_EXISTS[aatype]
    return np.take_along_axis(positions, index[..., None], 1) * exists[..., None], exists


def rigid_group_frames(
    aatype: np.ndarray, positions: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames of the rigid groups, the frames with alternative atom names (both [N, 8, 12]), and their mask [N, 8].

    The last chi group of a residue with ambiguous names differs by half a turn about its axis (Suppl. Table 2, 3).
    """
    atoms = residues.RIGID_GROUP_ATOMS37[aatype]  # [N, 8, 3]
    row = np.arange(len(aatype))[:, None, None]
    points = positions[row, atoms]
    rotation, origin = _frames(points[..., 0, :], points[..., 1, :], points[..., 2, :])
    # The backbone group is named C, Cα, N, but C lies on its positive x-axis.
    rotation[:, BACKBONE_GROUP] *= np.array([-1, 1, -1], rotation.dtype)
    exists = mask[row, atoms].min(-1) * residues.RIGID_GROUP_EXISTS[aatype]
    half_turn = 1 - 2 * residues.RIGID_GROUP_AMBIGUOUS[aatype][..., None] * np.array([0, 1, 1], np.float32)
    return _flat(rotation, origin), _flat(rotation * half_turn[..., None, :], origin), exists


def torsion_angles(aatype: np.ndarray, positions: np.ndarray, mask: np.ndarray) -> Torsions:
    """Torsion angles of residues int [..., N] with `positions` [..., N, 37, 3] in Å and `mask` [..., N, 37].

    Omega and phi need the residue before; psi is taken from the oxygen, which is half a turn away.
    """
    aatype = np.minimum(aatype, UNKNOWN)
    atoms, atom_masks = _torsion_atoms(aatype, positions, mask)
    rotation, origin = _frames(atoms[..., 1, :], atoms[..., 2, :], atoms[..., 0, :])
    # Coordinates y and z of the fourth atom in the frame of the first three, whose x-axis is the bond turned about.
    fourth = ((atoms[..., 3, :] - origin)[..., None] * rotation[..., 1:]).sum(-2)
    sin_cos = fourth[..., ::-1] / np.sqrt((fourth**2).sum(-1, keepdims=True) + positions.dtype.type(_EPSILON))
    sin_cos[..., PSI, :] *= -1
    flips = np.ones((*aatype.shape, sin_cos.shape[-2]), np.float32)
    flips[..., -NUM_CHI:] -= 2 * residues.CHI_PI_PERIODIC[aatype]
    return Torsions(sin_cos, sin_cos * flips[..., None], atom_masks.prod(-1))


def _torsion_atoms(aatype: np.ndarray, positions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four atoms of every torsion angle, [..., N, 7, 4, 3], and their masks, [..., N, 7, 4]."""
    chi_atoms = residues.CHI_ATOMS[aatype].reshape(*aatype.shape, NUM_CHI * 4, 1)
    found = []
    for values in (positions, mask[..., None]):
        before = np.zeros_like(values)
        before[..., 1:, :, :] = values[..., :-1, :, :]
        backbone = values[..., [N_ATOM, CA_ATOM, C_ATOM, O_ATOM], :]
        omega = np.concatenate([before[..., [CA_ATOM, C_ATOM], :], backbone[..., :2, :]], -2)
        phi = np.concatenate([before[..., [C_ATOM], :], backbone[..., :3, :]], -2)
        chi = np.take_along_axis(values, chi_atoms, -2)
        chi = chi.reshape(*aatype.shape, NUM_CHI, 4, values.shape[-1])
        found.append(np.concatenate([np.stack([omega, phi, backbone], -3), chi], -3))
    atoms, masks = found
    masks = masks[..., 0]
    masks[..., -NUM_CHI:, :] *= residues.CHI_MASK[aatype][..., None]
    return atoms, masks


def _frames(on_negative_x: np.ndarray, origin: np.ndarray, in_plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations [..., 3, 3] and origins [..., 3] of frames through three points [..., 3] (Suppl. Alg. 21)."""
    x = _unit(origin - on_negative_x)
    y = in_plane - origin
    y = _unit(y - (x * y).sum(-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], -1), origin


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector**2).sum(-1, keepdims=True) + vector.dtype.type(_EPSILON))


def _flat(rotation: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """[..., 12]: the rotation row by row, then the origin."""
    return np.concatenate([rotation.reshape(*rotation.shape[:-2], 9), origin], -1)
