"""Structure metrics against TM-align's own search, DeepMind's lDDT and what superposition must not change."""

import csv
import math

import jax
import numpy as np
import pytest

from evotrain import metrics
from evotrain.data.protein import CA_ATOM


def chain(length, seed=0):
    """Cα of a random walk in steps of 3.8 Å that folds back on itself."""
    rng = np.random.default_rng(seed)
    positions = np.zeros((length, 3))
    for i in range(1, length):
        step = rng.normal(size=3) - 0.08 * positions[i - 1]
        positions[i] = positions[i - 1] + 3.8 * step / np.linalg.norm(step)
    return positions


def disturbed(positions, size, seed=1):
    """A model that drifts from the positions along the chain, with noise beside."""
    rng = np.random.default_rng(seed)
    drift = np.cumsum(rng.normal(size=positions.shape), axis=0) / np.sqrt(len(positions))
    return positions + size * (drift + rng.normal(size=positions.shape) / 4)


def moved(positions, seed=2):
    """The positions after a rotation and a translation."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return positions @ (rotation * np.linalg.det(rotation)) + 30 * rng.normal(size=3)


def atoms(positions):
    """[N, 37, 3] and [N, 37] with a Cα only."""
    atom37, mask = np.zeros((len(positions), 37, 3), np.float32), np.zeros((len(positions), 37), np.float32)
    atom37[:, CA_ATOM], mask[:, CA_ATOM] = positions, 1
    return atom37, mask


@pytest.mark.parametrize(
    ("length", "size"), [(12, 2), (19, 3), (21, 1), (40, 0.3), (90, 4), (90, 15), (151, 3), (260, 8)]
)
def test_tm_score_and_rmsd_are_those_of_tm_align(length, size):
    tmtools = pytest.importorskip("tmtools")
    target = chain(length)
    model = moved(disturbed(target, size))
    letters = "A" * length
    expected = tmtools.tm_align(model, target, letters, letters, [letters, letters])
    assert len(expected.seqM) == length  # it kept the alignment
    _, tm = metrics.superposition_scores(model, target, length)
    assert tm == pytest.approx(expected.tm_norm_chain2, abs=1e-9)
    assert metrics.rmsd(model, target) == pytest.approx(expected.rmsd, abs=1e-9)


def test_tm_score_of_a_part_is_that_of_tm_align():
    tmtools = pytest.importorskip("tmtools")
    target = chain(80)
    model = moved(disturbed(target, 4))[20:70]
    full, part = "A" * 80, "A" * 50
    expected = tmtools.tm_align(model, target, part, full, ["-" * 20 + part + "-" * 10, full])
    _, tm = metrics.superposition_scores(model, target[20:70], 80)
    assert tm == pytest.approx(expected.tm_norm_chain2, abs=1e-9)


@pytest.mark.parametrize("size", [0.3, 3, 12])
def test_lddt_is_that_of_alphafold(size):
    lddt = pytest.importorskip("alphafold.model.lddt").lddt
    target = chain(70)
    model = disturbed(target, size)
    with jax.numpy_rank_promotion("allow"):
        expected = lddt(model[None], target[None], np.ones((1, 70, 1)))
    assert metrics.lddt(model, target) == pytest.approx(float(expected[0]), abs=1e-6)


def test_gdt_counts_residues_within_each_cutoff():
    """Of 40 residues 20 lie exactly, and 4, 8 and 8 are off by 1.5, 3 and 9 Å in different directions."""
    target = chain(40)
    rng = np.random.default_rng(3)
    direction = rng.normal(size=(20, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    model = target.copy()
    model[20:] += direction * np.repeat([1.5, 3.0, 9.0], [4, 8, 8])[:, None]
    gdt, _ = metrics.superposition_scores(moved(model), target, 40)
    exact = np.mean([20, 24, 32, 32]) / 40  # superposed on the first half; a compromise may gain a few
    assert exact - 1e-9 <= gdt <= exact + 0.05


def test_gdt_is_no_less_than_that_of_any_superposition_on_consecutive_residues():
    target = chain(50)
    model = moved(disturbed(target, 6))
    gdt, _ = metrics.superposition_scores(model, target, 50)
    for start in range(46):
        rotation, shift = kabsch(model[start : start + 4], target[start : start + 4])
        distance = np.linalg.norm(model @ rotation.T + shift - target, axis=-1)
        assert gdt >= np.mean([(distance <= cutoff).mean() for cutoff in (1, 2, 4, 8)]) - 1e-9


def kabsch(model, target):
    """Rotation and translation of the best superposition, by quaternions (Horn 1987)."""
    a, b = model - model.mean(0), target - target.mean(0)
    s = a.T @ b
    off = np.array([s[1, 2] - s[2, 1], s[2, 0] - s[0, 2], s[0, 1] - s[1, 0]])
    matrix = np.block([[np.trace(s), off], [off[:, None], s + s.T - np.trace(s) * np.eye(3)]])
    w, *v = np.linalg.eigh(matrix)[1][:, -1]
    v = np.array(v)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    return rotation, target.mean(0) - rotation @ model.mean(0)


def test_the_same_structure_elsewhere_is_perfect():
    positions = chain(30)
    predicted, mask = atoms(moved(positions))
    found = metrics.structure_metrics(predicted, mask, *atoms(positions))
    expected = dict.fromkeys(metrics.KEYS, 1.0) | {"structure/rmsd": 0.0}
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_mirror_image_is_not():
    positions = chain(60)
    predicted, mask = atoms(positions * [1, 1, -1])
    found = metrics.structure_metrics(predicted, mask, *atoms(positions))
    assert found["structure/lddt_ca"] == pytest.approx(1.0)
    assert found["structure/tm_score"] < 0.5
    assert found["structure/rmsd"] > 3


def test_unobserved_residues_do_not_count():
    positions = chain(60)
    predicted, mask = atoms(disturbed(positions, 5))
    true, true_mask = atoms(positions)
    observed = np.ones(60, bool)
    observed[[0, 1, 30, 31, 59]] = False
    true_mask[~observed] = 0
    true[~observed] = np.nan
    found = metrics.structure_metrics(predicted, mask, true, true_mask)
    alone = [array[observed] for array in (predicted, mask, true, true_mask)]
    assert found == metrics.structure_metrics(*alone)


def test_unpredicted_residues_lower_all_but_the_rmsd():
    positions = chain(60)
    predicted, mask = atoms(positions)
    mask[40:] = 0
    found = metrics.structure_metrics(predicted, mask, *atoms(positions))
    assert found["structure/gdt_ts"] == pytest.approx(40 / 60)
    assert found["structure/tm_score"] == pytest.approx(40 / 60)
    assert 0 < found["structure/lddt_ca"] < 0.9
    assert found["structure/rmsd"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("length", [0, 2])
def test_too_few_residues_have_no_metrics(length):
    found = metrics.structure_metrics(*atoms(chain(5)[:length]), *atoms(chain(5)[:length]))
    assert list(found) == list(metrics.KEYS)
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("length", [3, 4, 5, 8])
def test_a_few_residues_have(length):
    found = metrics.structure_metrics(*atoms(chain(length)), *atoms(chain(length)))
    assert found["structure/tm_score"] == pytest.approx(1)


def test_a_search_in_small_batches_finds_the_same(monkeypatch):
    target = chain(50)
    model = disturbed(target, 8)
    whole = metrics.superposition_scores(model, target, 50)
    monkeypatch.setattr(metrics, "FRAGMENTS_AT_ONCE", 300)
    assert metrics.superposition_scores(model, target, 50) == pytest.approx(whole, abs=1e-12)


def test_table_has_a_line_a_protein_and_an_empty_cell_for_nan(tmp_path):
    path = tmp_path / "per_protein.csv"
    rows = [
        {"name": "a,b", "residues": 12, "structure/rmsd": 1 / 3},
        {"name": "c", "residues": 3, "structure/rmsd": math.nan, "loss": 2.0},
    ]
    metrics.write_per_protein(path, rows)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [
        {"name": "a,b", "residues": "12", "structure/rmsd": "0.333333", "loss": ""},
        {"name": "c", "residues": "3", "structure/rmsd": "", "loss": "2"},
    ]
