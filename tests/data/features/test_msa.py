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
    rows, others = transforms.split_rows(np.arange(60), np.random.default_rng(0).permutation(59), 8)
    assert rows[0] == 0
    assert len(rows) == 8
    assert sorted([*rows, *others]) == list(range(60))


def test_a_sample_of_rows_is_uniform_and_keeps_the_query():
    rng = np.random.default_rng(0)
    counts = np.zeros(20)
    for _ in range(20_000):
        centres, others = transforms.split_rows(np.arange(20), rng.permutation(19), 2, most=6)
        assert (centres[0], len(centres), len(others)) == (0, 2, 4)
        counts[centres] += 1
        counts[others] += 1
    assert counts[0] == 20_000
    np.testing.assert_allclose(counts[1:] / 20_000, 5 / 19, atol=0.01)


def test_deleted_blocks_may_overlap_and_end_with_the_alignment():
    assert transforms.delete_blocks(10, np.array([0, 8]), 0.3).tolist() == [0, 3, 4, 5, 6, 7]
    assert transforms.delete_blocks(10, np.array([4, 5]), 0.3).tolist() == [0, 1, 2, 3, 8, 9]
    assert transforms.delete_blocks(3, np.array([0, 1, 2]), 0.3).tolist() == [0, 1, 2]  # a block has no rows
    assert transforms.delete_blocks(4, np.array([0]), 1.0).tolist() == [0]


def test_block_deletion_leaves_the_expected_share():
    """A row stays if no block begins at it or at one of the rows before that a block covers."""
    depth, blocks = 200, 5
    rng = np.random.default_rng(0)
    stays = np.zeros(depth)
    for starts in rng.integers(depth, size=(20_000, blocks)):
        stays[transforms.delete_blocks(depth, starts, 0.3)] += 1
    expected = (1 - np.minimum(np.arange(depth) + 1, 60) / depth) ** blocks
    expected[0] = 1
    np.testing.assert_allclose(stays / 20_000, expected, atol=0.01)
    assert stays.sum() / 20_000 == pytest.approx(expected.sum(), rel=0.01)


def test_masking_has_alphafolds_proportions():
    rng = np.random.default_rng(0)
    msa = np.full((500, 500), 3)
    profile = np.zeros((500, 22), np.float32)
    profile[:, 7] = 1
    counts = np.zeros(23)
    for _ in range(6):
        hidden = rng.random(msa.shape) < 0.5
        shown = transforms.mask_msa(msa, profile, hidden, rng.random(msa.shape))
        np.testing.assert_array_equal(shown[~hidden], 3)
        counts += np.bincount(shown[hidden], minlength=23)
    share = counts / counts.sum()
    for residue, expected in ((3, 0.105), (7, 0.105), (MASK, 0.7)):
        assert share[residue] == pytest.approx(expected, rel=0.01)
    np.testing.assert_allclose(np.delete(share[:20], [3, 7]), 0.005, rtol=0.05)
    assert not share[20:MASK].any()


def test_clusters_equal_a_row_by_row_count():
    sequences, deletions = _alignment(30)
    rng = np.random.default_rng(1)
    msa = np.where(rng.random((6, LENGTH)) < 0.1, MASK, sequences[:6])
    extra = sequences[6:]
    assignment = transforms.assign_clusters(msa, transforms.pack_rows(extra))
    for row, cluster in zip(extra, assignment, strict=True):
        agreement = [sum(a == b and a < GAP for a, b in zip(row, centre, strict=True)) for centre in msa]
        assert cluster == int(np.argmax(agreement))
    indexed = transforms.index_msa(sequences, deletions, slice(None))
    profile, mean = transforms.summarize_clusters(msa, np.arange(6), np.arange(6, 30), assignment, indexed)
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
    found = transforms.assign_clusters(centres, transforms.pack_rows(sequences[12:]))
    np.testing.assert_array_equal(found, agreement.argmax(1))
    assert transforms.assign_clusters(centres, transforms.pack_rows(sequences[:0])).shape == (0,)


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
