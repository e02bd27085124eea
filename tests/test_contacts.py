import math

import numpy as np
import pytest

from evotrain.contacts import (
    contact_precision,
    mean_precision,
)

KEYS = {"contact/precision_at_L", "contact/precision_at_L2", "contact/precision_at_L5", "contact/chance"}


def chain(length):
    """Residues 100 Å apart: nothing touches until a test moves something."""
    return np.stack([100.0 * np.arange(length), np.zeros(length), np.zeros(length)], -1)


def touch(positions, i, j):
    positions[j] = positions[i] + [0.0, 5.0, 0.0]


def score(scores, *pairs):
    for rank, (i, j) in enumerate(pairs):
        scores[i, j] = scores[j, i] = 100 - rank


def measure(scores, positions, mask=None, index=None, **options):
    length = len(positions)
    mask = np.ones(length) if mask is None else mask
    index = np.arange(length) if index is None else index
    return contact_precision(scores, positions, mask, index, **options)


def test_counts_the_best_ranked_pairs():
    # L = 10: the first 10, 5 and 2 pairs at separation 3 or more.
    positions, scores = chain(10), np.zeros((10, 10))
    touch(positions, 0, 5)
    touch(positions, 1, 7)
    touch(positions, 2, 9)
    score(scores, (0, 5), (3, 6), (1, 7), (0, 9), (0, 8), (2, 9))
    result = measure(scores, positions, min_separation=3)
    assert result == {
        "contact/precision_at_L": 3 / 10,
        "contact/precision_at_L2": 2 / 5,
        "contact/precision_at_L5": 1 / 2,
        "contact/chance": 3 / 28,
    }


def test_separation_is_that_of_residue_index():
    positions, scores = chain(6), np.zeros((6, 6))
    touch(positions, 2, 3)
    score(scores, (2, 3))
    index = np.array([1, 2, 3, 40, 41, 42])
    result = measure(scores, positions, index=index)
    assert result["contact/chance"] == 1 / 9
    assert result["contact/precision_at_L5"] == 1.0
    assert math.isnan(measure(scores, positions)["contact/precision_at_L"])


def test_unsigned_residue_index_does_not_wrap_around():
    result = measure(np.zeros((30, 30)), chain(30), index=np.arange(30, dtype=np.uint8))
    assert result["contact/chance"] == 0.0


def test_unobserved_residues_neither_count_nor_lengthen():
    positions, scores = chain(30), np.zeros((30, 30))
    touch(positions, 0, 28)
    touch(positions, 1, 29)
    score(scores, (0, 28), (1, 29))
    mask = np.ones(30)
    mask[28] = 0
    mask[5:25] = 0
    # L = 9 observed; of these only 0-4 against 25-29 without 28 are 24 or more apart.
    result = measure(scores, positions, mask)
    pairs = sum(j - i >= 24 for i in range(5) for j in (25, 26, 27, 29))
    assert result["contact/chance"] == 1 / pairs
    assert result["contact/precision_at_L"] == 1 / 9
    assert result["contact/precision_at_L5"] == 1.0


def test_fewer_pairs_than_asked_for_count_all():
    positions = chain(26)
    touch(positions, 0, 25)
    result = measure(np.zeros((26, 26)), positions)
    assert result["contact/precision_at_L"] == result["contact/chance"] == 1 / 3


def test_ties_rank_in_the_order_of_residues():
    positions = chain(5)
    touch(positions, 0, 2)
    result = measure(np.zeros((5, 5)), positions, min_separation=2)
    assert result["contact/precision_at_L5"] == 1.0


def test_both_triangles_count():
    positions, scores = chain(5), np.zeros((5, 5))
    touch(positions, 1, 4)
    scores[4, 1] = 1
    assert measure(scores, positions, min_separation=2)["contact/precision_at_L5"] == 1.0


def test_no_contact_is_zero_and_no_pair_is_nan():
    assert measure(np.zeros((30, 30)), chain(30)) == dict.fromkeys(KEYS, 0.0)
    assert all(math.isnan(value) for value in measure(np.zeros((24, 24)), chain(24)).values())
    assert all(math.isnan(value) for value in measure(np.zeros((30, 30)), chain(30), np.zeros(30)).values())


def test_mean_skips_proteins_without_pairs():
    rows = [dict.fromkeys(KEYS, 0.2), dict.fromkeys(KEYS, float("nan")), dict.fromkeys(KEYS, 0.4)]
    assert mean_precision(rows) == pytest.approx(dict.fromkeys(KEYS, 0.3))
    assert set(mean_precision([])) == KEYS
    assert all(math.isnan(value) for value in mean_precision(rows[1:2]).values())
