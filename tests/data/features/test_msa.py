import numpy as np
import pytest

from evotrain.data.features import msa as transforms
from evotrain.data.protein import GAP, MASK

LENGTH = 37


def _alignment(rows, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    msa = rng.integers(0, 22, (rows, length)).astype(np.uint8)
    msa[rng.random(msa.shape) < 0.2] = GAP
    return msa, (rng.poisson(0.3, msa.shape) * rng.integers(0, 5, msa.shape)).astype(np.int32)


def test_the_query_stays_first_and_the_rows_partition():
    rows, others = transforms.split_rows(np.random.default_rng(0).permutation(59), 8)
    assert rows[0] == 0
    assert len(rows) == 8
    assert sorted([*rows, *others]) == list(range(60))


def test_masking_has_alphafolds_proportions():
    rng = np.random.default_rng(0)
    msa = np.full((400, 500), 3)
    profile = np.zeros((500, 22), np.float32)
    profile[:, 7] = 1
    hidden = rng.random(msa.shape) < 0.15
    shown = transforms.mask_msa(msa, profile, hidden, rng.random(msa.shape))
    np.testing.assert_array_equal(shown[~hidden], 3)
    share = np.bincount(shown[hidden], minlength=23) / hidden.sum()
    expected = np.zeros(23)
    expected[:20] = 0.1 / 20
    expected[7] += 0.1
    expected[3] += 0.1
    expected[MASK] = 0.7
    np.testing.assert_allclose(share, expected, atol=0.01)


def test_clusters_equal_a_row_by_row_count():
    sequences, deletions = _alignment(30)
    rng = np.random.default_rng(1)
    msa = np.where(rng.random((6, LENGTH)) < 0.1, MASK, sequences[:6])
    extra = sequences[6:]
    assignment = transforms.assign_clusters(msa, extra)
    for row, cluster in zip(extra, assignment, strict=True):
        agreement = [sum(a == b and a < GAP for a, b in zip(row, centre, strict=True)) for centre in msa]
        assert cluster == int(np.argmax(agreement))
    profile, mean = transforms.summarize_clusters(msa, deletions[:6], extra, deletions[6:], assignment)
    for cluster in range(6):
        members = np.concatenate([msa[cluster : cluster + 1], extra[assignment == cluster]])
        counts = np.concatenate([deletions[cluster : cluster + 1], deletions[6:][assignment == cluster]])
        np.testing.assert_allclose(profile[cluster], np.eye(23)[members].mean(0), atol=2e-6)
        np.testing.assert_allclose(mean[cluster], counts.mean(0), rtol=2e-6)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_clusters_of_any_length_equal_a_product_of_one_hot_vectors(length):
    sequences, _ = _alignment(90, length)
    centres = np.where(np.random.default_rng(1).random((12, length)) < 0.2, MASK, sequences[:12])
    centres[5] = centres[2]  # equal centres: the first wins
    table = np.eye(23, GAP, dtype=np.int64)
    agreement = np.einsum("enc,snc->es", table[sequences[12:]], table[centres])
    found = transforms.assign_clusters(centres, sequences[12:])
    np.testing.assert_array_equal(found, agreement.argmax(1))
    assert transforms.assign_clusters(centres, sequences[:0]).shape == (0,)


def test_channels_of_msa_feat():
    msa = np.array([[3, MASK]])
    deletions = np.array([[0, 3]])
    profile = np.full((1, 2, 23), 0.25, np.float32)
    feat = transforms.msa_feat(msa, deletions, profile, np.array([[3.0, 0.0]], np.float32))
    np.testing.assert_array_equal(feat[..., :23], np.eye(23)[msa])
    np.testing.assert_array_equal(feat[..., 23], [[0, 1]])
    np.testing.assert_allclose(feat[..., 24], [[0, 0.5]])
    np.testing.assert_array_equal(feat[..., 25:48], profile)
    np.testing.assert_allclose(feat[..., 48], [[0.5, 0]])
