"""Fully sharded parameters: where each array is split, how it is gathered for use, how its gradient is reduced.

The rule: an array is split along its smallest dimension that the axis divides, never along the layer dimension of
stacked blocks; if there is none, it is replicated. The largest stays whole because a TPU lays arrays out in lanes of
128: a part of 32 × 8 × 32 of an attention's 256 × 8 × 32 weights would take four times its size. Optimizer state and
EMA have the shapes of the parameters, so one rule places all of them.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from evotrain.parallel.mesh import ALL_AXES, CONTEXT, DATA, FSDP, varying_axes

STACKED = "blocks"  # the name under which a model keeps blocks with a leading layer dimension


def split_dim(path: tuple, shape: tuple[int, ...], parts: int) -> int | None:
    """The dimension along which the array at `path` of a tree is split into `parts`, or None."""
    first = 1 if is_stacked(path) else 0
    divisible = [d for d in range(first, len(shape)) if shape[d] % parts == 0]
    return min(divisible, key=lambda d: shape[d]) if divisible and parts > 1 else None


def is_stacked(path: tuple) -> bool:
    return any(getattr(entry, "key", getattr(entry, "name", None)) == STACKED for entry in path)


def specs(tree: Any, parts: int) -> Any:
    """The PartitionSpec of each array (or ShapeDtypeStruct) of a state or a part of it."""

    def spec(path: tuple, x: Any) -> P:
        dim = split_dim(path, x.shape, parts)
        return P() if dim is None else P(*(None,) * dim, FSDP)

    return jax.tree_util.tree_map_with_path(spec, tree)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The NamedSharding of each array of a state."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree, mesh.shape[FSDP]))


# --- inside the sharded step -----------------------------------------------------------------------------------------


def gather(params: Any, whole_params: Any) -> Any:
    """Parameters of the shapes of `whole_params` from this device's parts; their gradients are reduce-scattered.

    The split dimension is the one in which a part differs from the whole, so what is whole already passes through.
    """

    def whole(x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
        for dim, (part, full) in enumerate(zip(x.shape, like.shape, strict=True)):
            if part != full:
                return lax.all_gather(x, FSDP, axis=dim, tiled=True)
        return x

    gathered = jax.tree.map(whole, params, whole_params)
    return gathered if jax.tree.all(jax.tree.map(operator.is_, gathered, params)) else _once(gathered)


@jax.custom_vjp
def _once(gathered: Any) -> Any:
    """The same arrays, which XLA does not gather again in each trip of a loop that uses them, as it otherwise does."""
    return lax.optimization_barrier(gathered)


# Without a barrier for the gradients, which would keep XLA from scattering each as soon as it is there.
_once.defvjp(lambda gathered: (_once(gathered), None), lambda _, gradients: (gradients,))


def gather_unstacked(params: Any, whole_params: Any) -> Any:
    """Gathers all but the stacked blocks, which are gathered one at a time inside their scan."""

    def whole(path: tuple, x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
        return x if is_stacked(path) else gather(x, like)

    return jax.tree_util.tree_map_with_path(whole, params, whole_params)


def reduce_gradients(grads: Any, params: Any) -> Any:
    """Sums gradients over the mesh into the parts of `params` that the device keeps.

    The gradient of a part was already summed over fsdp where the parameter was gathered; a whole one of a split
    parameter is reduce-scattered here.
    """

    def reduce(g: jax.Array, p: jax.Array) -> jax.Array:
        for dim, (whole, part) in enumerate(zip(g.shape, p.shape, strict=True)):
            if whole != part:
                g = lax.psum_scatter(g, FSDP, scatter_dimension=dim, tiled=True)
        return _sum(g, ALL_AXES if not _is_part(p) else (DATA, CONTEXT))

    return jax.tree.map(reduce, grads, params)


def sum_context(grads: Any) -> Any:
    """Sums the parts of one example's gradient that its context shards hold."""
    return jax.tree.map(lambda g: _sum(g, (CONTEXT,)), grads)


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm over all arrays that a device holds."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def global_norm(parts: Any) -> jax.Array:
    """The Euclidean norm over all arrays, of which devices hold parts."""

    def squares(x: jax.Array) -> jax.Array:
        total = jnp.sum(jnp.square(x))
        return lax.psum(total, FSDP) if _is_part(x) else total

    return jnp.sqrt(sum(squares(x) for x in jax.tree.leaves(parts)))


def _is_part(x: jax.Array) -> bool:
    return FSDP in varying_axes(x)


def _sum(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The sum over those of `axes` along which `x` differs."""
    differing = tuple(axis for axis in axes if axis in varying_axes(x))
    return lax.psum(x, differing) if differing else x
