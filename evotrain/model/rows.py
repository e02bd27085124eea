"""Rows that do not depend on each other, computed a few at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from evotrain.parallel.mesh import vary, varying_axes

# Numbers that stay in the cache of a CPU core. Larger intermediates go through the memory for each operation on them,
# in pages that the system must first clear: attention with 256 MiB of logits takes 3 times as long as row by row.
CPU_CACHE = 2**19


def map_rows(function: Callable[[Any], Any], rows: Any, *, numbers: int, chunk: int | None = None) -> Any:
    """`function` of a tree of arrays [R, ...], which treats rows alike and gives a tree of arrays [R, ...].

    It gets at most `chunk` rows at a time, and what they need for the backward pass is computed again there, so that it
    never exists for all rows; of a single chunk too, so that devices with few rows do the same operations. By default
    an accelerator gets all rows, and a CPU as many as its cache holds if `numbers` is the size of a row's
    intermediates.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if chunk is None:
        chunk = _rows_in_cache(count, numbers) if _on_cpu() else count
        if chunk >= count:
            return function(rows)
    chunk = chunk_size(count, chunk)
    # XLA unrolls a loop of one, and would then compute once what is to be computed again.
    once = jax.checkpoint(function)
    if chunk == count:
        return once(rows)
    whole, rest = count - count % chunk, count % chunk
    several = jax.checkpoint(function, prevent_cse=False) if whole > chunk else once

    def body(out: Any, numbered: tuple[jax.Array, Any]) -> tuple[Any, None]:
        start, some = numbered
        return jax.tree.map(lambda y, new: _write(chunk, y, new, start), out, several(some)), None

    split = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), rows)
    out, _ = lax.scan(body, _room(function, rows), (jnp.arange(0, whole, chunk), split))
    if not rest:
        return out
    last = once(jax.tree.map(lambda x: x[whole:], rows))
    return jax.tree.map(lambda y, new: _write(rest, y, new, whole), out, last)


def _room(function: Callable[[Any], Any], rows: Any) -> Any:
    """Arrays for the result, whose values mean nothing because all will be written over.

    They are made of one of the inputs, so that XLA cannot make the room for all results of a program at its beginning,
    which it does for the constants that `lax.map` starts from.
    """
    like = jax.tree.leaves(rows)[0]
    # A slice: of `ravel()[0]` under vmap, XLA makes a copy of the whole array, padded 64 times.
    some = lax.stop_gradient(lax.slice(like, (0,) * like.ndim, (1,) * like.ndim)).reshape(())

    def room(y: jax.ShapeDtypeStruct) -> jax.Array:
        return vary(jnp.broadcast_to(some.astype(y.dtype), y.shape), tuple(varying_axes(y)))

    return jax.tree.map(room, jax.eval_shape(function, rows))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _write(count: int, out: jax.Array, some: jax.Array, start: jax.Array | int) -> jax.Array:
    """`out` with the `count` rows from `start` on replaced by `some`."""
    return lax.dynamic_update_slice_in_dim(out, some, start, axis=0)


def _write_forward(count: int, out: jax.Array, some: jax.Array, start: jax.Array | int) -> tuple[jax.Array, Any]:
    return _write(count, out, some, start), start


def _write_backward(count: int, start: jax.Array | int, gradient: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    # By `out` it should be zero in the rows that were replaced, which nothing reads: each row is written once, and the
    # room has no gradient. Leaving it as it is saves a copy of the whole for each chunk.
    return gradient, lax.dynamic_slice_in_dim(gradient, start, count, axis=0), None


_write.defvjp(_write_forward, _write_backward)


def chunk_size(count: int, most: int) -> int:
    """The rows of a chunk, but for a smaller last one: the fewest that make no more chunks than `most` rows do."""
    return -(-count // -(-count // most))


def _rows_in_cache(count: int, numbers: int) -> int:
    chunks = -(-count * numbers // CPU_CACHE)
    return -(-count // chunks)


def _on_cpu() -> bool:
    """Whether the program that is being traced is for a CPU: by the mesh, which need not be this machine's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (jax.default_backend() if device is None else device.platform) == "cpu"
