"""Facts about the 20 amino acids as tables: atoms, chi angles, rigid groups, ideal positions, bond lengths and angles.

Rows of a table are AlphaFold's 20 residue types, then the unknown residue, of which nothing is known. The numbers stand
in `residues.txt` beside this file, with their sources; everything here follows from them. Tables are numpy arrays,
float32 and int32 unless said otherwise; masks are float32.

Atoms are counted in two ways: atom37 has one place for each atom name, atom14 lists the atoms of a residue type.
A residue has 8 rigid groups: 0 backbone, 1 omega, 2 phi, 3 psi, 4-7 chi 1-4. Omega and phi move hydrogens only.
"""

from dataclasses import dataclass, field
from importlib import resources

import numpy as np

from evotrain.data.protein import NUM_ATOMS, RESIDUES, UNKNOWN

NUM_TYPES = UNKNOWN + 1
NUM_ATOM14, NUM_GROUPS, NUM_CHI = 14, 8, 4
BACKBONE_GROUP, PHI_GROUP, PSI_GROUP, CHI_GROUP = 0, 2, 3, 4  # chi 1 is group 4, chi 2 group 5, …


@dataclass(frozen=True)
class Residue:
    """One block of `residues.txt`. Angles and their deviations are in degrees, lengths in Å."""

    positions: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # in the frame of the atom's group
    groups: dict[str, int] = field(default_factory=dict)
    bonds: dict[frozenset[str], tuple[float, float]] = field(default_factory=dict)  # length, deviation
    angles: list[tuple[str, str, str, float, float]] = field(default_factory=list)  # atoms, angle, deviation
    chi_chain: list[str] = field(default_factory=list)
    swaps: list[tuple[str, str]] = field(default_factory=list)

    @property
    def chi_atoms(self) -> list[list[str]]:
        """The four atoms of each chi angle."""
        return [self.chi_chain[i : i + 4] for i in range(len(self.chi_chain) - 3)]


def _read() -> tuple[list[str], dict[str, Residue]]:
    """The atom37 names, and the residue types by name, from `residues.txt`."""
    atom37, blocks = [], {}
    for line in resources.files("evotrain").joinpath("residues.txt").read_text("utf-8").splitlines():
        match line.split():
            case ["atom37", *names]:
                atom37.extend(names)
            case ["residue", name]:
                block = blocks[name] = Residue()
            case ["atom", name, group, x, y, z, *bonds]:
                block.groups[name] = int(group)
                block.positions[name] = (float(x), float(y), float(z))
                for other, length, stddev in zip(*[iter(bonds)] * 3, strict=True):
                    block.bonds[frozenset((other, name))] = (float(length), float(stddev))
            case ["angles", *angles]:
                for atoms, mean, stddev in zip(*[iter(angles)] * 3, strict=True):
                    block.angles.append((*atoms.split("-"), float(mean), float(stddev)))
            case ["chi", *chain]:
                block.chi_chain.extend(chain)
            case ["swap", one, other]:
                block.swaps.append((one, other))
    return atom37, blocks


_ATOM37, _BLOCKS = _read()
_RESIDUES = [*_BLOCKS.values(), Residue()]  # the last one unknown

ATOM_NAMES = tuple(_ATOM37)  # the atom37 order
ATOM_INDEX = {name: index for index, name in enumerate(ATOM_NAMES)}
RESIDUE_NAMES = (*_BLOCKS, "UNK")  # PDB's three letters
# Names of a residue type's atoms in atom14 order, without the places that it leaves empty.
RESIDUE_ATOM14_NAMES = tuple(tuple(residue.positions) for residue in _RESIDUES)
assert len(RESIDUE_NAMES) == len(RESIDUES) + 1 == NUM_TYPES
assert len(ATOM_NAMES) == NUM_ATOMS

# Å; A. Bondi, J. Phys. Chem. 68, 441 (1964).
ELEMENT_RADII = {"C": 1.7, "N": 1.55, "O": 1.52, "S": 1.8}
# Van der Waals radii by atom37, float64 [37]: the first letter of an atom's name is its element.
VAN_DER_WAALS_RADII = np.array([ELEMENT_RADII[name[0]] for name in ATOM_NAMES])

# The peptide bond: mean and standard deviation of its length in Å, before any residue and before proline, and of the
# cosines of its angles (Engh and Huber, as in `residues.txt`; AlphaFold 2, Suppl. 1.9.11).
PEPTIDE_BOND_LENGTH, PEPTIDE_BOND_LENGTH_STDDEV = 1.329, 0.014
PROLINE_BOND_LENGTH, PROLINE_BOND_LENGTH_STDDEV = 1.341, 0.016
COS_CA_C_N = -0.4473  # 116.568°; its deviation is not used, see `losses/violation.py`
COS_C_N_CA, COS_C_N_CA_STDDEV = -0.5203, 0.0353  # 121.352° ± 2.315°
CA_CA_DISTANCE = 3.80209737096  # Å, of neighbours around a trans peptide bond


def _atom_tables() -> tuple[np.ndarray, ...]:
    exists14, exists37 = np.zeros((NUM_TYPES, NUM_ATOM14), np.float32), np.zeros((NUM_TYPES, NUM_ATOMS), np.float32)
    to37, to14 = np.zeros((NUM_TYPES, NUM_ATOM14), np.int32), np.zeros((NUM_TYPES, NUM_ATOMS), np.int32)
    swap = np.tile(np.arange(NUM_ATOM14, dtype=np.int32), (NUM_TYPES, 1))
    groups = np.zeros((NUM_TYPES, NUM_ATOM14), np.int32)
    positions = np.zeros((NUM_TYPES, NUM_ATOM14, 3), np.float32)
    for aatype, (residue, names) in enumerate(zip(_RESIDUES, RESIDUE_ATOM14_NAMES, strict=True)):
        for place, name in enumerate(names):
            index = ATOM_INDEX[name]
            exists14[aatype, place] = exists37[aatype, index] = 1.0
            to37[aatype, place], to14[aatype, index] = index, place
            groups[aatype, place], positions[aatype, place] = residue.groups[name], residue.positions[name]
        for one, other in residue.swaps:
            i, j = names.index(one), names.index(other)
            swap[aatype, i], swap[aatype, j] = j, i
    return exists14, exists37, to37, to14, swap, groups, positions


# Which atoms a residue type has [21, 14] and [21, 37]; the place of each atom in the other order [21, 14] and [21, 37],
# 0 for atoms that do not exist; the place of an atom under the alternative names [21, 14], its own where there is none;
# its rigid group [21, 14], and its ideal position in that group's frame in Å [21, 14, 3].
(
    ATOM14_EXISTS,
    ATOM37_EXISTS,
    ATOM14_TO_ATOM37,
    ATOM37_TO_ATOM14,
    ATOM14_SWAP,
    RIGID_GROUP_ATOM14,
    ATOM14_IDEAL_POSITIONS,
) = _atom_tables()
ATOM14_IS_AMBIGUOUS = (np.arange(NUM_ATOM14) != ATOM14_SWAP).astype(np.float32)


def _chi_tables() -> tuple[np.ndarray, ...]:
    atoms = np.zeros((NUM_TYPES, NUM_CHI, 4), np.int32)
    mask, periodic = np.zeros((NUM_TYPES, NUM_CHI), np.float32), np.zeros((NUM_TYPES, NUM_CHI), np.float32)
    for aatype, residue in enumerate(_RESIDUES):
        for chi, names in enumerate(residue.chi_atoms):
            atoms[aatype, chi] = [ATOM_INDEX[name] for name in names]
            mask[aatype, chi] = 1.0
        if residue.swaps:
            periodic[aatype, len(residue.chi_atoms) - 1] = 1.0
    return atoms, mask, periodic


# The atoms of each chi angle [21, 4, 4] as atom37 places, 0 where there is no such angle; which angles exist [21, 4];
# and which look the same after half a turn [21, 4].
CHI_ATOMS, CHI_MASK, CHI_PI_PERIODIC = _chi_tables()


def _rigid_group_atoms() -> np.ndarray:
    """The three atoms that define each group's frame, as atom37 places [21, 8, 3].

    On the negative x axis, at the origin, and in the xy plane, for Gram-Schmidt (AlphaFold 2, Suppl. Alg. 21). The
    backbone frame that this gives has x and z the other way round than AlphaFold's, whose x axis points to C.
    """
    atoms = np.zeros((NUM_TYPES, NUM_GROUPS, 3), np.int32)
    atoms[:, BACKBONE_GROUP] = [ATOM_INDEX[name] for name in ("C", "CA", "N")]
    atoms[:, PSI_GROUP] = [ATOM_INDEX[name] for name in ("CA", "C", "O")]
    atoms[:, CHI_GROUP:] = CHI_ATOMS[:, :, 1:]
    return atoms


# Groups that hold atoms other than hydrogens [21, 8], of the unknown residue too: its backbone; and the groups whose
# frame the alternative names turn by 180° around x [21, 8].
RIGID_GROUP_ATOMS37 = _rigid_group_atoms()
RIGID_GROUP_EXISTS = np.zeros((NUM_TYPES, NUM_GROUPS), np.float32)
RIGID_GROUP_EXISTS[:, [BACKBONE_GROUP, PSI_GROUP]] = 1.0
RIGID_GROUP_EXISTS[:, CHI_GROUP:] = CHI_MASK
RIGID_GROUP_AMBIGUOUS = np.zeros((NUM_TYPES, NUM_GROUPS), np.float32)
RIGID_GROUP_AMBIGUOUS[:, CHI_GROUP:] = CHI_PI_PERIODIC


def _transform(x_axis: np.ndarray, in_xy_plane: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """The homogeneous matrix [4, 4] of the frame with these axes and origin."""
    x = x_axis / np.linalg.norm(x_axis)
    y = in_xy_plane - np.dot(in_xy_plane, x) * x
    y /= np.linalg.norm(y)
    matrix = np.eye(4)
    matrix[:3] = np.stack([x, y, np.cross(x, y), origin], axis=1)
    return matrix


def _default_frames() -> np.ndarray:
    """Each group's frame at a torsion of zero, seen from the group before it (AlphaFold 2, Suppl. Table 2).

    Psi and chi 1 turn the backbone group, chi 2 turns the group of chi 1, and so on. All zero where there is no group.
    """
    frames = np.zeros((NUM_TYPES, NUM_GROUPS, 4, 4), np.float32)
    for aatype, residue in enumerate(_RESIDUES[:UNKNOWN]):
        at = {name: np.array(position) for name, position in residue.positions.items()}
        frames[aatype, :PHI_GROUP] = np.eye(4)
        frames[aatype, PHI_GROUP] = _transform(at["N"] - at["CA"], np.array([1.0, 0, 0]), at["N"])
        frames[aatype, PSI_GROUP] = _transform(at["C"] - at["CA"], at["CA"] - at["N"], at["C"])
        for chi, (before, start, end, _) in enumerate(residue.chi_atoms):
            if chi == 0:
                frame = _transform(at[end] - at[start], at[before] - at[start], at[end])
            else:
                # The axis starts at the origin of the previous group's frame, whose x axis comes from the atom before.
                frame = _transform(at[end], np.array([-1.0, 0, 0]), at[end])
            frames[aatype, CHI_GROUP + chi] = frame
    return frames


RIGID_GROUP_DEFAULT_FRAMES = _default_frames()  # [21, 8, 4, 4]


def atom14_distance_bounds(
    overlap_tolerance: float = 1.5, bond_length_tolerance_factor: float = 12.0
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds in Å of the distances within a residue, float32 [21, 14, 14] each.

    Atoms that are bonded, or bonded to the same atom, keep their ideal distance to within that many standard
    deviations; others may overlap by no more than the tolerance. 0 on the diagonal and for atoms that do not exist.
    """
    lower, upper = (np.zeros((NUM_TYPES, NUM_ATOM14, NUM_ATOM14)) for _ in range(2))
    for aatype, (residue, names) in enumerate(zip(_RESIDUES, RESIDUE_ATOM14_NAMES, strict=True)):
        radii = np.array([ELEMENT_RADII[name[0]] for name in names])
        apart = ~np.eye(len(names), dtype=bool)
        lower[aatype, : len(names), : len(names)] = apart * (radii[:, None] + radii - overlap_tolerance)
        upper[aatype, : len(names), : len(names)] = apart * 1e10
        for (one, other), (length, stddev) in _distances(residue).items():
            i, j = names.index(one), names.index(other)
            lower[aatype, i, j] = lower[aatype, j, i] = length - bond_length_tolerance_factor * stddev
            upper[aatype, i, j] = upper[aatype, j, i] = length + bond_length_tolerance_factor * stddev
    return lower.astype(np.float32), upper.astype(np.float32)


def _distances(residue: Residue) -> dict[tuple[str, str], tuple[float, float]]:
    """Ideal distance and deviation in Å of atoms that are one or two bonds apart."""
    distances = {tuple(atoms): known for atoms, known in residue.bonds.items()}
    for one, middle, other, degrees, degrees_stddev in residue.angles:
        a, a_stddev = residue.bonds[frozenset((one, middle))]
        b, b_stddev = residue.bonds[frozenset((middle, other))]
        angle, angle_stddev = degrees / 180 * np.pi, degrees_stddev / 180 * np.pi
        length = np.sqrt(a**2 + b**2 - 2 * a * b * np.cos(angle))
        # Propagation of independent errors through the law of cosines.
        by_angle = a * b * np.sin(angle) / length * angle_stddev
        by_a = (a - b * np.cos(angle)) / length * a_stddev
        by_b = (b - a * np.cos(angle)) / length * b_stddev
        distances[one, other] = length, np.sqrt(by_angle**2 + by_a**2 + by_b**2)
    return distances
