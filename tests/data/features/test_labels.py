"""Labels of the structure module, against AlphaFold's own code and against what must be true of any geometry."""

import sys
from unittest import mock

import numpy as np
import pytest
from quick_compile import QUICK

from evotrain import residues
from evotrain.data.features.labels import PSI, rigid_group_frames, structure_labels, torsion_angles
from evotrain.data.protein import CA_ATOM, CB_ATOM, GAP
from evotrain.data.sets.raw import RawSet
from evotrain.data_config import ProteinSetConfig
from evotrain.residues import NUM_CHI

LENGTH = 42
# Largest difference in float64, where the reference computes in it too.
EXACT = 1e-9


def _residues(seed=0, observed=0.9):
    """Every residue type twice, atoms scattered about their residue as in a protein.

    Atoms that were not observed have positions too: three equal ones make a frame of nothing but rounding.
    """
    rng = np.random.default_rng(seed)
    aatype = np.arange(LENGTH, dtype=np.int32) % 21
    positions = 20 * rng.standard_normal((LENGTH, 1, 3)) + 2 * rng.standard_normal((LENGTH, 37, 3))
    mask = (rng.random((LENGTH, 37)) < observed).astype(np.float32)
    return aatype, positions.astype(np.float32), mask


def _reference(function, *arguments, dtype):
    """AlphaFold's function on arrays of that dtype, its answer as numpy arrays."""
    jax = pytest.importorskip("jax")
    all_atom = pytest.importorskip("alphafold.model.all_atom")
    with jax.enable_x64(dtype == np.float64), jax.numpy_rank_promotion("allow"):
        given = [x.astype(dtype) if x.dtype.kind == "f" else x for x in arguments]
        compiled = jax.jit(getattr(all_atom, function), compiler_options=QUICK)
        return {name: np.asarray(x) for name, x in compiled(*given).items()}


def _assert_equal(ours, exact, rounded):
    """Within rounding of the float64 reference: no worse than 3 times AlphaFold's own float32."""
    for mine, reference, theirs in zip(ours, exact, rounded, strict=True):
        scale = np.abs(reference).max()
        bar = max(1e-5, 3 * np.abs(theirs - reference).max() / scale)
        assert np.abs(mine - reference).max() / scale <= bar


@pytest.mark.parametrize("observed", [1.0, 0.9, 0.5])
def test_frames_equal_alphafolds(observed):
    aatype, positions, mask = _residues(observed=observed)
    names = ("rigidgroups_gt_frames", "rigidgroups_alt_gt_frames", "rigidgroups_gt_exists")
    exact, rounded = (
        [found[name] for name in names]
        for found in (
            _reference("atom37_to_frames", aatype, positions, mask, dtype=dtype) for dtype in (np.float64, np.float32)
        )
    )
    ours = rigid_group_frames(aatype, positions.astype(np.float64), mask)
    for mine, reference in zip(ours, exact, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=EXACT * np.abs(reference).max())
    _assert_equal(rigid_group_frames(aatype, positions, mask), exact, rounded)
    assert 0 < exact[2].mean() < 1


@pytest.mark.parametrize("observed", [1.0, 0.9, 0.5])
def test_torsion_angles_equal_alphafolds(observed):
    aatype, positions, mask = _residues(1, observed)
    aatype[3] = GAP  # as templates have it
    names = ("torsion_angles_sin_cos", "alt_torsion_angles_sin_cos", "torsion_angles_mask")
    exact, rounded = (
        [found[name][0].reshape(LENGTH * 7, -1)[PSI:] for name in names]
        for found in (
            _reference("atom37_to_torsion_angles", aatype[None], positions[None], mask[None], dtype=dtype)
            for dtype in (np.float64, np.float32)
        )
    )
    ours, ours_rounded = (torsion_angles(aatype, positions.astype(dtype), mask) for dtype in (np.float64, np.float32))
    # There is no residue before the first, and its omega and phi are rounding.
    assert not ours.mask[0, :PSI].any()
    mine, mine_rounded = ([x.reshape(LENGTH * 7, -1)[PSI:] for x in found] for found in (ours, ours_rounded))
    for found, reference in zip(mine, exact, strict=True):
        np.testing.assert_allclose(found, reference, rtol=0, atol=EXACT)
    _assert_equal(mine_rounded, exact, rounded)
    assert not ours.mask[3, -NUM_CHI:].any()


def test_atoms_and_their_alternative_names_equal_alphafolds(monkeypatch):
    pytest.importorskip("alphafold.common.residue_constants")
    for name in ("openmm", "openmm.app", "openmm.app.internal", "openmm.app.internal.pdbstructure", "pdbfixer"):
        if name not in sys.modules:  # the module that has the transform relaxes structures as well
            monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    amber = pytest.importorskip("alphafold.relax.amber_minimize")
    aatype, positions, mask = _residues(2)
    theirs = amber.make_atom14_positions({"aatype": aatype, "all_atom_positions": positions, "all_atom_mask": mask})
    ours = structure_labels(aatype, positions, mask)
    for name in (name for name in ours if name.startswith("atom14_")):
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert (ours["atom14_alt_gt_positions"] != ours["atom14_gt_positions"]).any()


def test_chi_angles_are_those_of_the_torsions():
    aatype, positions, mask = _residues(3)
    labels = structure_labels(aatype, positions, mask)
    torsions = torsion_angles(aatype, positions, mask)
    assert labels["chi_mask"].any()
    np.testing.assert_array_equal(labels["chi_mask"], torsions.mask[:, 3:])
    vectors = np.stack([np.sin(labels["chi_angles"]), np.cos(labels["chi_angles"])], -1)
    known = labels["chi_mask"] > 0
    np.testing.assert_allclose(vectors[known], torsions.sin_cos[:, 3:][known], atol=1e-6)
    assert not labels["chi_angles"][~known].any()


def test_turning_and_moving_the_protein_turns_and_moves_the_frames_and_keeps_the_angles():
    aatype, positions, mask = _residues(4, observed=1.0)
    positions = positions.astype(np.float64)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    turn *= np.linalg.det(turn)
    moved = positions @ turn.T + np.array([3.0, -20.0, 8.0])
    before, after = torsion_angles(aatype, positions, mask), torsion_angles(aatype, moved, mask)
    known = before.mask > 0
    np.testing.assert_allclose(after.sin_cos[known], before.sin_cos[known], atol=1e-9)
    (frames, _, exists), (moved_frames, _, _) = (rigid_group_frames(aatype, x, mask) for x in (positions, moved))
    known = exists > 0
    rotation, origin = frames[..., :9].reshape(*frames.shape[:2], 3, 3), frames[..., 9:]
    expected = np.concatenate([(turn @ rotation).reshape(*frames.shape[:2], 9), origin @ turn.T + [3, -20, 8]], -1)
    np.testing.assert_allclose(moved_frames[known], expected[known], atol=1e-9)


def test_psi_of_a_peptide_is_measured_to_the_next_nitrogen():
    """The oxygen lies half a turn from it in the plane of the peptide bond."""
    positions = np.zeros((1, 37, 3), np.float32)
    mask = np.zeros((1, 37), np.float32)
    atoms = {"N": (-1.0, 1.0, 0.0), "CA": (0.0, 0.0, 0.0), "C": (1.5, 0.0, 0.0), "O": (2.1, 1.0, 0.0)}
    for name, xyz in atoms.items():
        positions[0, residues.ATOM_INDEX[name]], mask[0, residues.ATOM_INDEX[name]] = xyz, 1
    torsions = torsion_angles(np.zeros(1, np.int32), positions, mask)
    # Nitrogen and oxygen are on the same side, so that psi is 180°.
    np.testing.assert_allclose(torsions.sin_cos[0, PSI], [0, -1], atol=1e-6)
    assert torsions.mask[0].tolist() == [0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("atoms", [[], [CA_ATOM], [CA_ATOM, CB_ATOM]])
def test_without_backbone_every_label_is_finite_and_masked(atoms):
    aatype, positions, mask = _residues(observed=1.0)
    mask[:] = 0
    mask[:, atoms] = 1
    labels = structure_labels(aatype, positions * mask[..., None], mask)
    assert all(np.isfinite(x).all() for x in labels.values())
    for name in ("rigidgroups_gt_exists", "chi_mask", "chi_angles"):
        assert not labels[name].any(), name
    assert labels["atom14_gt_exists"].sum() == (mask * residues.ATOM37_EXISTS[aatype]).sum()


def test_frames_place_ideal_atoms_where_they_are_observed(realdata):
    """Bond lengths and angles vary little: the ideal atoms of each group lie within 0.1 Å in a crystal structure."""
    protein = RawSet(ProteinSetConfig(root=str(realdata))).read("102m_A")
    aatype = protein.msa[0].astype(np.int32)
    labels = structure_labels(aatype, protein.atom_positions, protein.atom_mask)
    group = residues.RIGID_GROUP_ATOM14[aatype]
    frames = np.take_along_axis(labels["rigidgroups_gt_frames"], group[..., None], 1)
    rotation, origin = frames[..., :9].reshape(*group.shape, 3, 3), frames[..., 9:]
    ideal = (rotation @ residues.ATOM14_IDEAL_POSITIONS[aatype][..., None])[..., 0] + origin
    known = labels["atom14_gt_exists"] * np.take_along_axis(labels["rigidgroups_gt_exists"], group, 1) > 0
    distance = np.linalg.norm(ideal - labels["atom14_gt_positions"], axis=-1)[known]
    assert known.sum() > 1000
    assert np.sqrt((distance**2).mean()) < 0.1
    assert protein.resolution == pytest.approx(1.84)
