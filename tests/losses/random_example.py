"""Labels of a short random protein with gaps and padding, and a structure predicted for it, in float64.

It is no protein that could exist: atoms of a residue lie around its Cα, and frames lie anywhere.
"""

from typing import Any

import numpy as np

from evotrain import residues
from evotrain.data.protein import RESIDUES
from evotrain.model.rigid import Rigid, from_flat12, rotation_from_quaternion
from evotrain.model.sidechain import atom14_positions, rigid_group_frames
from evotrain.model.structure import Structure

Arrays = dict[str, Any]

LAYERS, C_S = 2, 6
# All with ambiguous names, proline, cysteines, glycine, and an unknown residue; the last two are padding.
SEQUENCE = "ADPECFGCYRX"
PADDING = 2
LENGTH = len(SEQUENCE) + PADDING
UNOBSERVED = 5  # a residue of which nothing was observed
HALF_TURN = np.diag([1.0, -1.0, -1.0])  # around x


def random_example(seed: int = 0) -> Arrays:
    """The features and labels that losses read; `backbone_quaternion` [N, 4] is that of rigid group 0."""
    rng = np.random.default_rng(seed)
    aatype = np.array([*((RESIDUES + "X").index(letter) for letter in SEQUENCE), *[0] * PADDING])
    seq_mask = (np.arange(LENGTH) < len(SEQUENCE)).astype(float)
    residue_index = np.arange(LENGTH) + 3 + 4 * (np.arange(LENGTH) > 7)  # a gap
    observed = seq_mask * (np.arange(LENGTH) != UNOBSERVED)

    positions = random_positions(rng)
    exists = residues.ATOM14_EXISTS[aatype] * observed[:, None] * (rng.random((LENGTH, 14)) < 0.8)
    groups = residues.RIGID_GROUP_EXISTS[aatype] * observed[:, None] * (rng.random((LENGTH, 8)) < 0.9)
    quaternion = random_quaternions(rng, (LENGTH, 8))
    frames = flat_frames(quaternion, positions[:, :8])
    swap = residues.ATOM14_SWAP[aatype]
    atom37, has_atom37 = residues.ATOM37_TO_ATOM14[aatype], residues.ATOM37_EXISTS[aatype]
    return {
        "aatype": np.where(seq_mask > 0, aatype, 0),
        "residue_index": np.where(seq_mask > 0, residue_index, 0),
        "seq_mask": seq_mask,
        "all_atom_positions": np.take_along_axis(positions, atom37[..., None], axis=1),
        "all_atom_mask": np.take_along_axis(exists, atom37, axis=1) * has_atom37,
        "atom14_gt_positions": positions,
        "atom14_gt_exists": exists,
        "atom14_alt_gt_positions": np.take_along_axis(positions, swap[..., None], axis=1),
        "atom14_alt_gt_exists": np.take_along_axis(exists, swap, axis=1),
        "rigidgroups_gt_frames": frames,
        "rigidgroups_alt_gt_frames": turned(frames, residues.RIGID_GROUP_AMBIGUOUS[aatype]),
        "rigidgroups_gt_exists": groups,
        "chi_angles": rng.uniform(-np.pi, np.pi, (LENGTH, 4)),
        "chi_mask": residues.CHI_MASK[aatype] * observed[:, None],
        "resolution": np.array(2.0),
        "backbone_quaternion": quaternion[:, 0],
    }


def random_prediction(seed: int = 1) -> Arrays:
    """What losses are differentiated by: the parts of a `Structure`, its backbone's rotations as quaternions."""
    rng = np.random.default_rng(seed)
    unnormalized = rng.normal(size=(LAYERS, LENGTH, 7, 2))
    return {
        "quaternion": random_quaternions(rng, (LAYERS, LENGTH)),
        "translation": random_positions(rng)[None, :, 1] + rng.normal(size=(LAYERS, LENGTH, 3)),
        "frames": flat_frames(random_quaternions(rng, (LENGTH, 8)), random_positions(rng)[:, :8]),
        "positions": random_positions(rng),
        "angles": unnormalized / np.linalg.norm(unnormalized, axis=-1, keepdims=True),
        "unnormalized_angles": unnormalized,
        "single": rng.normal(size=(LENGTH, C_S)),
    }


def structure_of(prediction: Arrays) -> Structure:
    return Structure(
        backbone=Rigid(rotation_from_quaternion(prediction["quaternion"]), prediction["translation"]),
        angles=prediction["angles"],
        unnormalized_angles=prediction["unnormalized_angles"],
        frames=from_flat12(prediction["frames"]),
        atom14_positions=prediction["positions"],
        single=prediction["single"],
    )


def random_positions(rng: np.random.Generator) -> np.ndarray:
    """[N, 14, 3] in Å: crowded enough for clashes, long enough for errors beyond the clamp."""
    return np.cumsum(rng.normal(scale=2.2, size=(LENGTH, 1, 3)), axis=0) + rng.normal(size=(LENGTH, 14, 3))


def ideal_residues(aatype: np.ndarray) -> np.ndarray:
    """[N, 14, 3] in Å: each residue in its ideal shape with all torsion angles 180°, Cα at the origin."""
    backbone = Rigid(np.tile(np.eye(3, dtype=np.float32), (len(aatype), 1, 1)), np.zeros((len(aatype), 3), np.float32))
    angles = np.tile(np.array([0.0, -1.0], np.float32), (len(aatype), 7, 1))
    return np.asarray(atom14_positions(aatype, rigid_group_frames(aatype, backbone, angles)))


def random_quaternions(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of unit length [*shape, 4]."""
    quaternion = rng.normal(size=(*shape, 4))
    return quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """The rotation matrices [..., 3, 3] of unit quaternions [..., 4], in their precision."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def flat_frames(quaternion: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Frames [..., 12]: rotation by rows, then translation."""
    return np.concatenate([rotation(quaternion).reshape(*translation.shape[:-1], 9), translation], axis=-1)


def turned(frames: np.ndarray, ambiguous: np.ndarray) -> np.ndarray:
    """Flat frames [N, 8, 12], those that are ambiguous [N, 8] turned by 180° around their x axis."""
    rotations = frames[..., :9].reshape(*frames.shape[:2], 3, 3)
    rotations = np.where(ambiguous[..., None, None] > 0, rotations @ HALF_TURN, rotations)
    return np.concatenate([rotations.reshape(*frames.shape[:2], 9), frames[..., 9:]], axis=-1)


def moved(example: Arrays) -> Arrays:
    """The example with its target rotated and shifted by some Å."""
    rng = np.random.default_rng(3)
    by, shift = rotation(random_quaternions(rng, ())), 20.0 * rng.normal(size=3)
    found = dict(example)
    for name in ("all_atom_positions", "atom14_gt_positions", "atom14_alt_gt_positions"):
        found[name] = example[name] @ by.T + shift
    for name in ("rigidgroups_gt_frames", "rigidgroups_alt_gt_frames"):
        rotations = by @ example[name][..., :9].reshape(LENGTH, 8, 3, 3)
        found[name] = np.concatenate([rotations.reshape(LENGTH, 8, 9), example[name][..., 9:] @ by.T + shift], axis=-1)
    return found


def narrow(arrays: Arrays) -> Arrays:
    """In float32 and int32."""
    return {name: x.astype(np.int32 if x.dtype.kind == "i" else np.float32) for name, x in arrays.items()}
