"""The arrays of a pytree by name (`params/evoformer/…`), and how two sets of them differ."""

from typing import Any

import jax
import numpy as np

PyTree = Any


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their names, `/` between the keys of the path, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "two leaves have the same name"
    return named


def nested_dicts(named: dict[str, Any]) -> dict[str, Any]:
    """Dictionaries in dictionaries, from names: a tree that remembers no classes."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def differences(stored: dict[str, Any], made: dict[str, Any], *, ignore_others: bool) -> list[str]:
    """How stored arrays differ from those that the configuration makes, in names, shapes and dtypes: a clause each.

    Args:
      stored, made: anything with `shape` and `dtype`, by name.
      ignore_others: whether `stored` may have arrays that are not in `made`.
    """
    clauses = []
    for name, array in made.items():
        if name not in stored:
            clauses.append(f"{name} is missing, the configuration makes {_kind(array)}")
        elif stored[name].shape != array.shape:
            clauses.append(f"{name} is {tuple(stored[name].shape)}, the configuration makes {tuple(array.shape)}")
        elif stored[name].dtype != array.dtype:
            clauses.append(f"{name} is {np.dtype(stored[name].dtype)}, the configuration makes {np.dtype(array.dtype)}")
    if not ignore_others:
        clauses += [
            f"{name} is {_kind(array)}, the configuration makes none"
            for name, array in stored.items()
            if name not in made
        ]
    return clauses


def _kind(array: Any) -> str:
    return f"{np.dtype(array.dtype)} {tuple(array.shape)}"
