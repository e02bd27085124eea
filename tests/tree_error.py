"""How far two trees of arrays are apart."""

from typing import Any

import jax
import numpy as np

# Theory says that these gradients are zero, so that they hold nothing but rounding: an offset of the pair bias, or of
# what it is made of, shifts all keys of a query alike, to which the softmax is blind.
VANISHING = ("['row_attention']['norm_z']['offset']", "['attention']['pair_bias']['bias']")
ROUNDING = 1e-6  # of the largest value in the tree


def largest_error(found: Any, expected: Any) -> tuple[float, str]:
    """The error of the array that is worst off, and its path in the tree.

    An error is the largest absolute difference over the largest absolute value of an array. A vanishing gradient has
    none if it is as small as rounding in both trees.
    """
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))

    def error(path: tuple, b: np.ndarray, a: np.ndarray) -> tuple[float, str]:
        name, a, b = jax.tree_util.keystr(path), np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, name
        if name.endswith(VANISHING):
            assert max(np.abs(a).max(), np.abs(b).max()) < ROUNDING * largest, name
            return 0.0, name
        difference = np.abs(a - b).max()
        return (difference / np.abs(b).max() if difference else 0.0), name

    pairs = zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True)
    return max(error(path, b, a) for (path, b), a in pairs)
