"""The tables of residues equal DeepMind's, and agree with chemistry."""

import gemmi
import jax
import numpy as np
import pytest

from evotrain import residues
from evotrain.data.protein import RESIDUES, UNKNOWN

constants = pytest.importorskip("alphafold.common.residue_constants", reason="the reference is in the extra `test`")
all_atom = pytest.importorskip("alphafold.model.all_atom")


def known(table: np.ndarray) -> np.ndarray:
    return np.asarray(table)[:UNKNOWN]


def test_names():
    assert tuple(constants.resnames) == residues.RESIDUE_NAMES
    assert tuple(constants.atom_types) == residues.ATOM_NAMES
    for name, atoms in zip(residues.RESIDUE_NAMES, residues.RESIDUE_ATOM14_NAMES, strict=True):
        assert atoms == tuple(atom for atom in constants.restype_name_to_atom14_names[name] if atom)


def test_atoms():
    np.testing.assert_array_equal(residues.ATOM14_EXISTS, constants.restype_atom14_mask)
    np.testing.assert_array_equal(residues.ATOM37_EXISTS, constants.restype_atom37_mask)
    np.testing.assert_array_equal(residues.RIGID_GROUP_ATOM14, constants.restype_atom14_to_rigid_group)
    np.testing.assert_array_equal(residues.ATOM14_IDEAL_POSITIONS, constants.restype_atom14_rigid_group_positions)
    np.testing.assert_array_equal(
        residues.VAN_DER_WAALS_RADII, [constants.van_der_waals_radius[name[0]] for name in constants.atom_types]
    )


def test_atom14_and_atom37_are_inverse():
    place14, place37 = np.arange(14), np.arange(37)
    back14 = np.take_along_axis(residues.ATOM37_TO_ATOM14, residues.ATOM14_TO_ATOM37, axis=1)
    back37 = np.take_along_axis(residues.ATOM14_TO_ATOM37, residues.ATOM37_TO_ATOM14, axis=1)
    assert ((back14 == place14) | (residues.ATOM14_EXISTS == 0)).all()
    assert ((back37 == place37) | (residues.ATOM37_EXISTS == 0)).all()
    for to, exists in (
        (residues.ATOM14_TO_ATOM37, residues.ATOM14_EXISTS),
        (residues.ATOM37_TO_ATOM14, residues.ATOM37_EXISTS),
    ):
        assert (to[exists == 0] == 0).all()


def test_alternative_names():
    matrices = np.asarray(all_atom.RENAMING_MATRICES)
    np.testing.assert_array_equal(np.eye(14)[residues.ATOM14_SWAP], matrices)
    swapped = {
        name: {atom for pair in swaps.items() for atom in pair}
        for name, swaps in constants.residue_atom_renaming_swaps.items()
    }
    for name, atoms, ambiguous in zip(
        residues.RESIDUE_NAMES, residues.RESIDUE_ATOM14_NAMES, residues.ATOM14_IS_AMBIGUOUS, strict=True
    ):
        assert {atoms[place] for place in np.flatnonzero(ambiguous)} == swapped.get(name, set())


def test_chi_angles():
    np.testing.assert_array_equal(residues.CHI_ATOMS, all_atom.get_chi_atom_indices())
    np.testing.assert_array_equal(known(residues.CHI_MASK), constants.chi_angles_mask)
    np.testing.assert_array_equal(residues.CHI_PI_PERIODIC, constants.chi_pi_periodic)
    assert not residues.CHI_MASK[UNKNOWN].any()


def their_frames(*args: np.ndarray) -> dict:
    with jax.numpy_rank_promotion("allow"):
        return all_atom.atom37_to_frames(*args)


def test_rigid_groups():
    np.testing.assert_array_equal(residues.RIGID_GROUP_DEFAULT_FRAMES, constants.restype_rigid_group_default_frame)
    aatype = np.arange(residues.NUM_TYPES)
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(len(aatype), 37, 3)).astype(np.float32)
    theirs = their_frames(aatype, positions, np.ones((len(aatype), 37), np.float32))
    np.testing.assert_array_equal(residues.RIGID_GROUP_EXISTS, theirs["rigidgroups_group_exists"])
    np.testing.assert_array_equal(residues.RIGID_GROUP_AMBIGUOUS, theirs["rigidgroups_group_is_ambiguous"])
    # The origin of a frame is its second atom.
    origins = np.take_along_axis(positions, residues.RIGID_GROUP_ATOMS37[:, :, 1, None].reshape(21, 8, 1), axis=1)
    np.testing.assert_array_equal(origins, np.asarray(theirs["rigidgroups_gt_frames"])[..., 9:])
    # Each atom enters as the reference uses it: the observed frame is missing exactly if one of the three atoms is.
    for place in range(37):
        mask = np.ones((len(aatype), 37), np.float32)
        mask[:, place] = 0.0
        exists = their_frames(aatype, positions, mask)["rigidgroups_gt_exists"]
        uses = (place == residues.RIGID_GROUP_ATOMS37).any(-1)
        np.testing.assert_array_equal(residues.RIGID_GROUP_EXISTS * ~uses, exists)


@pytest.mark.parametrize(("overlap", "factor"), [(1.5, 12.0), (1.0, 15.0)])
def test_distance_bounds(overlap: float, factor: float):
    lower, upper = residues.atom14_distance_bounds(overlap, factor)
    theirs = constants.make_atom14_dists_bounds(overlap, factor)
    np.testing.assert_array_equal(lower, theirs["lower_bound"])
    np.testing.assert_array_equal(upper, theirs["upper_bound"])


def test_peptide_bond():
    assert constants.between_res_bond_length_c_n == [residues.PEPTIDE_BOND_LENGTH, residues.PROLINE_BOND_LENGTH]
    deviations = [residues.PEPTIDE_BOND_LENGTH_STDDEV, residues.PROLINE_BOND_LENGTH_STDDEV]
    assert deviations == constants.between_res_bond_length_stddev_c_n
    assert constants.between_res_cos_angles_ca_c_n[0] == residues.COS_CA_C_N
    assert constants.between_res_cos_angles_c_n_ca == [residues.COS_C_N_CA, residues.COS_C_N_CA_STDDEV]
    assert constants.ca_ca == residues.CA_CA_DISTANCE


def test_chemistry():
    codes = [gemmi.find_tabulated_residue(name).one_letter_code for name in residues.RESIDUE_NAMES[:UNKNOWN]]
    assert "".join(codes) == RESIDUES
    for element, radius in residues.ELEMENT_RADII.items():
        assert gemmi.Element(element).vdw_r == pytest.approx(radius)
