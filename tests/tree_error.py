"""How far two trees of arrays are apart."""

from typing import Any

import jax
import numpy as np


def largest_error(found: Any, expected: Any, *, floor: float = 1e-6) -> tuple[float, str]:
    """The error of the array that is worst off, and its path in the tree.

    An error is the largest absolute difference over the largest absolute value of an array, or over `floor` of the
    largest value in the tree if that is more: what is zero in theory holds nothing but rounding.
    """
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves_with_path(expected), strict=True)
    arrays = [(np.asarray(a, np.float64), np.asarray(b, np.float64), path) for a, (path, b) in pairs]
    least = floor * max(np.abs(b).max() for _, b, _ in arrays)
    assert all(a.shape == b.shape for a, b, _ in arrays)
    return max((np.abs(a - b).max() / max(np.abs(b).max(), least), jax.tree_util.keystr(path)) for a, b, path in arrays)
