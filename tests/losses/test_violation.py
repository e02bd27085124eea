"""Violations of two residues that one can compute by hand."""

from typing import Any

import jax
import numpy as np
import pytest
from quick_compile import QUICK
from random_example import ideal_residues

from evotrain.data.protein import C_ATOM, CA_ATOM, N_ATOM, RESIDUES
from evotrain.losses import violation
from evotrain.losses.violation import SULPHUR, atoms_that_exist
from evotrain.residues import COS_C_N_CA, COS_CA_C_N, PEPTIDE_BOND_LENGTH, PEPTIDE_BOND_LENGTH_STDDEV

Arrays = dict[str, Any]
peptide_bonds, clashes, within_residues, violation_metrics = (
    jax.jit(function, compiler_options=QUICK)
    for function in (violation.peptide_bonds, violation.clashes, violation.within_residues, violation.violation_metrics)
)
ALANINE, CYSTEINE = RESIDUES.index("A"), RESIDUES.index("C")


def pair(aatype: int = ALANINE, gap: int = 0) -> Arrays:
    return {
        "aatype": np.full(2, aatype),
        "residue_index": np.array([5, 6 + gap]),
        "seq_mask": np.ones(2, np.float32),
    }


def bonded(stretch: float = 0.0) -> np.ndarray:
    """[2, 14, 3]: Cα, C, N, Cα in the ideal shape of a trans peptide, the bond longer than usual by `stretch` Å."""
    positions = np.zeros((2, 14, 3), np.float32)
    length = PEPTIDE_BOND_LENGTH + stretch
    positions[0, CA_ATOM, :2] = 1.5 * np.array([COS_CA_C_N, np.sqrt(1 - COS_CA_C_N**2)])
    positions[1, N_ATOM, 0] = length
    positions[1, CA_ATOM, :2] = np.array([length, 0]) + 1.46 * np.array([-COS_C_N_CA, -np.sqrt(1 - COS_C_N_CA**2)])
    assert not positions[0, C_ATOM].any()
    return positions


def bond_loss(positions: np.ndarray, example: Arrays) -> tuple[float, list[bool]]:
    loss, violated = peptide_bonds(positions, atoms_that_exist(example), example["residue_index"], example["aatype"])
    return float(loss), list(map(bool, violated))


def test_an_ideal_peptide_bond_violates_nothing():
    assert bond_loss(bonded(), pair()) == (0.0, [False, False])
    assert bond_loss(bonded(0.1), pair()) == (0.0, [False, False])  # within 12 deviations


def test_a_stretched_bond_costs_what_it_exceeds_the_tolerance_by_to_both_residues():
    loss, violated = bond_loss(bonded(0.5), pair())
    assert loss == pytest.approx(0.5 - 12 * PEPTIDE_BOND_LENGTH_STDDEV, rel=1e-4)
    assert violated == [True, True]


def test_a_gap_in_the_chain_is_no_bond():
    assert bond_loss(bonded(9.0), pair(gap=1)) == (0.0, [False, False])


def test_a_bent_peptide_costs():
    positions = bonded()
    positions[1, CA_ATOM, :2] = 0.0, -1.2
    loss, violated = bond_loss(positions, pair())
    assert loss > 0.05
    assert violated == [True, True]


def two_atoms(first: int, second: int, apart: float, example: Arrays) -> list[float]:
    """The overlap that clashes find, with all other atoms far away."""
    positions = 1e3 * np.arange(1, 29, dtype=np.float32).reshape(2, 14, 1) * np.ones(3, np.float32)
    positions[0, first] = 0.0
    positions[1, second] = apart, 0.0, 0.0
    overlap, clashing = clashes(positions, atoms_that_exist(example), example["residue_index"], example["aatype"])
    np.testing.assert_array_equal(clashing, np.asarray(overlap) > 0)
    return list(map(float, overlap))


def test_atoms_may_overlap_by_the_tolerance():
    closest = 1.7 + 1.7 - 1.5  # two carbons
    assert two_atoms(CA_ATOM, CA_ATOM, closest + 0.1, pair()) == [0.0, 0.0]
    assert two_atoms(CA_ATOM, CA_ATOM, closest - 0.1, pair()) == pytest.approx([0.1, 0.1], rel=1e-3)


def test_bonded_atoms_do_not_clash():
    bond = {"first": C_ATOM, "second": N_ATOM, "apart": 1.3}
    assert two_atoms(**bond, example=pair()) == [0.0, 0.0]
    assert two_atoms(**bond, example=pair(gap=1)) == pytest.approx([0.45, 0.45], rel=1e-3)
    assert two_atoms(SULPHUR, SULPHUR, 1.0, pair(CYSTEINE, gap=9)) == [0.0, 0.0]
    assert two_atoms(SULPHUR, CA_ATOM, 1.0, pair(CYSTEINE, gap=9)) == pytest.approx([1.0, 1.0], rel=1e-3)


def test_ideal_residues_keep_their_distances():
    example = pair(CYSTEINE)
    positions = ideal_residues(example["aatype"])
    excess, violated = within_residues(positions, atoms_that_exist(example), example["aatype"])
    assert not np.any(excess)
    assert not np.any(violated)
    excess, violated = within_residues(1.5 * positions, atoms_that_exist(example), example["aatype"])
    assert np.all(excess > 0)
    assert np.all(violated)


def test_metrics_are_shares_of_residues():
    example = pair(CYSTEINE) | {"seq_mask": np.array([1, 0], np.float32)}  # the second residue is padding
    positions = np.stack([1.5 * ideal_residues(example["aatype"])[0], np.zeros((14, 3), np.float32)])
    found = {name: float(share) for name, share in violation_metrics(positions, example).items()}
    assert found == {
        "violation/bond": 0.0,
        "violation/clash": 0.0,
        "violation/within_residue": 1.0,
        "violation/any": 1.0,
        "violation/broken_chain": 0.0,
    }
