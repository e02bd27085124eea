import math

import numpy as np
import pytest
from matplotlib import image

from evotrain import drawing, figures

N = 60


@pytest.fixture
def pair_maps():
    """Distances of a random walk, and noisy guesses at them, of N residues of which a few were not observed."""
    rng = np.random.default_rng(0)
    positions = np.cumsum(rng.normal(size=(N, 3)) * 2.0, axis=0)
    distance = np.linalg.norm(positions[:, None] - positions[None, :], axis=-1)
    mask = np.ones(N, np.float32)
    mask[[0, 1, 30, 31, 32]] = 0
    return {
        "distance": distance,
        "contacts": distance < 8,
        "probability": 1 / (1 + np.exp(distance - 8)),
        "baseline": -distance + rng.normal(size=(N, N)),
        "mask": mask,
    }


def draw_contacts(path, maps, **changed):
    arguments = {
        "name": "family 3",
        "probability": maps["probability"],
        "contacts": maps["contacts"],
        "baseline": maps["baseline"],
        "mask": maps["mask"],
        "precision": 0.41,
        "baseline_precision": 0.31,
        "residue_index": np.arange(N) + 17,
    }
    figures.contact_maps(path, **arguments | changed)


def assert_is_a_picture(path, width, height):
    """A PNG of about the size in pixels, with something in it and no unfinished file beside it."""
    picture = image.imread(path)
    assert picture.shape[0] == pytest.approx(height, abs=2)
    assert picture.shape[1] == pytest.approx(width, abs=2)
    assert picture[..., :3].std() > 0.05
    assert not list(path.parent.glob(".*"))


def test_contact_maps(tmp_path, pair_maps):
    path = tmp_path / "figures" / "contacts.png"
    draw_contacts(path, pair_maps)
    assert_is_a_picture(path, 1260, 600)
    before = path.read_bytes()
    draw_contacts(path, pair_maps)
    assert path.read_bytes() == before, "a figure must be a function of its data"
    draw_contacts(path, pair_maps, contacts=pair_maps["contacts"].T & False)
    assert path.read_bytes() != before


@pytest.mark.parametrize("observed", [0.0, 1.0])
def test_contact_maps_without_any_counted_pair(tmp_path, pair_maps, observed):
    short = {name: value[:10, :10] if value.ndim == 2 else np.full(10, observed) for name, value in pair_maps.items()}
    path = tmp_path / "contacts.png"
    draw_contacts(path, short, precision=math.nan, baseline_precision=math.nan, residue_index=np.arange(10))
    assert_is_a_picture(path, 1260, 600)


def test_distance_map(tmp_path, pair_maps):
    path = tmp_path / "distance.png"
    true = np.where(pair_maps["mask"][:, None] > 0, pair_maps["distance"], np.nan)
    figures.distance_map(path, name="x", expected=pair_maps["distance"] + 1, true=true, mask=pair_maps["mask"])
    assert_is_a_picture(path, 735, 630)


def test_distance_map_without_observed_residues(tmp_path, pair_maps):
    path = tmp_path / "distance.png"
    distance = pair_maps["distance"]
    figures.distance_map(path, name="x", expected=distance, true=distance, mask=np.zeros(N))
    assert path.exists()


def row(step, split, **metrics):
    return {"step": step, "split": split} | {name.replace("__", "/"): value for name, value in metrics.items()}


TRAIN = [row(s, "train", loss=3 / s, loss__masked_msa=2 / s, loss__distogram=math.nan) for s in range(1, 60)]
EVALUATIONS = [
    row(s, "eval/held_out", loss=3 / s, contact__precision_at_L=0.4, dca__precision_at_L=0.3, contact__chance=math.nan)
    for s in (20, 40)
]


@pytest.mark.parametrize(
    ("rows", "width"),
    [
        (TRAIN + EVALUATIONS, 1260),
        (EVALUATIONS, 1260),
        (TRAIN, 690),
        ([row(1, "eval/x", contact__precision_at_L=0.1, structure__lddt_ca=0.3)], 1830),
        ([row(1, "train", loss=3.0)], 690),
        ([row(1, "train", loss=math.nan), row(1, "eval/x", loss=1.0)], 690),
        ([], 690),
    ],
    ids=["all", "evaluations", "train", "structures", "one row", "nan", "empty"],
)
def test_learning_curves(tmp_path, rows, width):
    path = tmp_path / "curves.png"
    figures.learning_curves(path, rows)
    assert image.imread(path).shape[1] == pytest.approx(width, abs=2)


def test_halves_hold_the_prediction_above_the_diagonal():
    above, below = np.zeros((3, 3, 3)), np.ones((3, 3, 3))
    expected = [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    np.testing.assert_array_equal(drawing.halves(above, below)[..., 0], expected)


def test_rank_makes_the_best_pairs_dark_whatever_the_scale():
    rng = np.random.default_rng(1)
    score = np.triu(rng.normal(size=(N, N)), 1)
    score += score.T
    separation = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    counted = separation >= figures.LONG_RANGE
    shade = figures._rank(score, counted, N)
    np.testing.assert_array_equal(shade, figures._rank(1e6 * score - 5, counted, N))
    upper = np.triu(counted, 1)
    best = score >= np.sort(score[upper])[-N]
    np.testing.assert_array_equal((shade > 0.5)[upper], best[upper])
    assert shade.max() == 1
    assert shade.min() == 0


def test_smooth_ignores_nan_and_keeps_a_constant():
    values = np.full(80, 2.0)
    values[10] = np.nan
    smooth = figures._smooth(values)
    np.testing.assert_array_equal(np.isnan(smooth), np.isnan(values))
    np.testing.assert_allclose(smooth[np.isfinite(smooth)], 2.0)


def test_runs():
    assert drawing.runs(np.array([1, 1, 0, 1, 0, 1], bool)) == [(0, 1), (3, 3), (5, 5)]
    assert drawing.runs(np.zeros(3, bool)) == []
