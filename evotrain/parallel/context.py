"""Context parallelism: one example spread over devices by MSA rows, residues or pair rows (dynamic axial parallelism).

Modules are written for the shard that a device holds. They call the functions below where an algorithm needs what
other devices hold; none communicates where the context axis has size 1 or where no mesh is in scope. A tensor is
sharded along one dimension at a time, and its first dimension unless a comment says otherwise.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from evotrain.parallel.mesh import BATCH_AXES, CONTEXT, differing_axes, vary, varying_axes

GATHERED = "gathered"  # the name by which `model.stack` may keep for the backward pass what other devices have sent


def size() -> int:
    """Devices that share one example; 1 outside of the sharded step."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[CONTEXT] if CONTEXT in mesh.manual_axes else 1


def gather(x: jax.Array, dim: int) -> jax.Array:
    """The whole of `x`, of which each device holds a part of dimension `dim`; the gradient is reduce-scattered."""
    if size() == 1:
        return x
    return checkpoint_name(lax.all_gather(x, CONTEXT, axis=dim, tiled=True), GATHERED)


def switch(x: jax.Array, from_dim: int, to_dim: int) -> jax.Array:
    """`x`, sharded along `from_dim`, as its shard along `to_dim` (an all-to-all)."""
    if size() == 1:
        return x
    return checkpoint_name(lax.all_to_all(x, CONTEXT, split_axis=to_dim, concat_axis=from_dim, tiled=True), GATHERED)


def sum_shards(x: jax.Array) -> jax.Array:
    """The sum of `x` over the devices that share the example."""
    return x if size() == 1 else lax.psum(x, CONTEXT)


def shard(x: jax.Array, dim: int) -> jax.Array:
    """This device's part of dimension `dim` of an `x` that every device holds whole (no communication)."""
    if size() == 1:
        return x
    length, remainder = divmod(x.shape[dim], size())
    assert remainder == 0, f"dimension {dim} of {x.shape} over {size()} context shards"
    return lax.dynamic_slice_in_dim(x, lax.axis_index(CONTEXT) * length, length, axis=dim)


def shard_with_blanks(x: jax.Array, blanks: int) -> jax.Array:
    """This device's part of dimension 0 of `x`, which every device holds whole, and of `blanks` rows of zeros after it.

    Only that part is made: of a padded whole, XLA would keep all for the backward pass.
    """
    if size() == 1:
        return jnp.pad(x, [(0, blanks), *[(0, 0)] * (x.ndim - 1)])
    length, remainder = divmod(x.shape[0] + blanks, size())
    assert remainder == 0, f"{x.shape[0]} + {blanks} rows over {size()} context shards"
    rows = lax.axis_index(CONTEXT) * length + jnp.arange(length)
    return jnp.take(x, rows, axis=0, mode="fill", fill_value=0)


def replace_rows(x: jax.Array, rows: jax.Array, start: int) -> jax.Array:
    """`x`, sharded along dimension 0, with `rows`, which every device holds whole, in place of the whole's last rows:
    those from `start` on."""
    if size() == 1:
        return x.at[start:].set(rows)
    position = lax.axis_index(CONTEXT) * x.shape[0] + jnp.arange(x.shape[0]) - start
    replaced = (position >= 0).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(replaced, jnp.take(rows, position, axis=0, mode="clip"), x)


def on_first_shard(x: jax.Array) -> jax.Array:
    """`x` on the first of the devices that share the example, zeros on the others."""
    return x if size() == 1 else jnp.where(lax.axis_index(CONTEXT) == 0, x, jnp.zeros_like(x))


def first_shard_of(x: jax.Array) -> jax.Array:
    """The `x` of the first device on every device that shares the example; its gradient goes to the first alone."""
    return sum_shards(on_first_shard(x))


def zeros(shape: tuple[int, ...], dtype: np.dtype, *, sharded: bool = False) -> jax.Array:
    """Zeros of the whole `shape`, or this device's part along dimension 0, for a loop over one example to start from.

    They are marked as differing between devices, as what takes their place will.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return jnp.zeros(shape, dtype)
    parts = size() if sharded else 1
    return vary(jnp.zeros((shape[0] // parts, *shape[1:]), dtype), differing_axes() if sharded else BATCH_AXES)


def differing_like(tree: Any, *others: jax.Array) -> Any:
    """`tree`, for a loop to start from, marked as differing between the devices between which `others` differ."""
    return vary(tree, tuple(sorted(frozenset().union(*map(varying_axes, others)))))
