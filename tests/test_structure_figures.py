import numpy as np
import pytest
from matplotlib import image

from evotrain import structure_figures
from evotrain.metrics import pair_distances

SIZES = [1, 2, 60]


@pytest.fixture(params=SIZES)
def distance(request):
    """Distances of a random walk."""
    steps = np.random.default_rng(0).normal(size=(request.param, 3))
    return pair_distances(np.cumsum(2 * steps, axis=0))


def assert_is_a_picture(path, width, height):
    """A PNG of about the size in pixels, with no unfinished file beside it."""
    picture = image.imread(path)
    assert picture.shape[0] == pytest.approx(height, abs=2)
    assert picture.shape[1] == pytest.approx(width, abs=2)
    assert picture[..., :3].std() > 0.05
    assert not list(path.parent.glob(".*"))


def test_contact_map(tmp_path, distance):
    path = tmp_path / "a" / "contacts.png"
    structure_figures.contact_map(path, name="x", probability=1 / (1 + np.exp(distance - 8)), distance=distance)
    assert_is_a_picture(path, 735, 630)


def test_aligned_error_map(tmp_path, distance):
    path = tmp_path / "pae.png"
    structure_figures.aligned_error_map(path, name="x", error=distance, ptm=0.5)
    assert_is_a_picture(path, 735, 630)


def test_plddt_along_chain(tmp_path, distance):
    path = tmp_path / "plddt.png"
    structure_figures.plddt_along_chain(path, name="x", plddt=np.linspace(100, 0, len(distance)))
    assert_is_a_picture(path, 1260, 450)
    before = path.read_bytes()
    structure_figures.plddt_along_chain(path, name="x", plddt=np.linspace(100, 0, len(distance)))
    assert path.read_bytes() == before, "a figure must be a function of its data"


@pytest.mark.parametrize(("value", "index"), [(100, 0), (90, 0), (89.99, 1), (50, 2), (49, 3)])
def test_plddt_has_the_colour_of_its_class(tmp_path, value, index):
    path = tmp_path / "plddt.png"
    structure_figures.plddt_along_chain(path, name="x", plddt=np.full(7, float(value)))
    _, color = list(structure_figures.CONFIDENCE.values())[index]
    inside = np.round(255 * image.imread(path)[300:330, 600:630, :3]).astype(int)
    assert (inside == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all()
