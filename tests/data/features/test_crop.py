import numpy as np
import pytest

from evotrain.data.features.crop import contiguous_crop, crop_starts, spatial_crop


@pytest.mark.parametrize(("length", "crop", "starts"), [(10, 4, 7), (4, 4, 1), (3, 4, 1)])
def test_a_contiguous_crop_can_begin_wherever_it_fits(length, crop, starts):
    assert crop_starts(length, crop) == starts
    residues = [np.arange(length)[contiguous_crop(length, crop, start)] for start in range(starts)]
    assert {len(x) for x in residues} == {min(length, crop)}
    assert [x[0] for x in residues] == list(range(starts))
    assert residues[-1][-1] == length - 1


def test_a_spatial_crop_is_what_is_nearest_in_space():
    rng = np.random.default_rng(0)
    positions, mask = rng.standard_normal((50, 3)), (rng.random(50) < 0.7).astype(np.float32)
    for center in np.flatnonzero(mask):
        crop = spatial_crop(positions, mask, center, 12)
        assert center in crop
        assert (np.diff(crop) > 0).all()
        assert mask[crop].all()
        distance = np.linalg.norm(positions - positions[center], axis=-1)
        others = np.setdiff1d(np.flatnonzero(mask), crop)
        assert distance[crop].max() <= distance[others].min()


def test_ties_and_unobserved_residues_go_by_the_sequence():
    line = np.arange(9.0)[:, None] * [1, 0, 0]
    mask = np.ones(9)
    assert spatial_crop(line, mask, 4, 4).tolist() == [2, 3, 4, 5]  # 2 and 6 are equally far
    mask[[3, 5, 8]] = 0
    assert spatial_crop(line, mask, 4, 3).tolist() == [2, 4, 6]
    assert spatial_crop(line, mask, 4, 7).tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert spatial_crop(line, mask, 4, 20).tolist() == list(range(9))
