"""The device mesh, and what the step needs to know about its axes.

Axes, outermost first: `data` (replicas), `fsdp` (parameters and optimizer state sharded; the batch is split over
data × fsdp), `context` (one example shared, see `context.py`). Axis names occur only in this package and in `conf/`.
"""

from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from evotrain.config import MeshConfig

DATA, FSDP, CONTEXT = "data", "fsdp", "context"
BATCH_AXES = (DATA, FSDP)
ALL_AXES = (DATA, FSDP, CONTEXT)
BATCH_SPEC = P(BATCH_AXES)  # rows of a batch over data × fsdp, whole on every context shard
PAIR_ROWS_SPEC = P(BATCH_AXES, CONTEXT)  # ... and dimension 1 over the devices that share the example


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh of a resolved configuration (no −1 left) over all devices of all processes."""
    sizes = (config.data, config.fsdp, config.context)
    return jax.make_mesh(sizes, ALL_AXES, axis_types=(AxisType.Auto,) * 3)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of every array of a batch."""
    return NamedSharding(mesh, BATCH_SPEC)


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def pair_rows_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of one example's pair representation: rows over the devices that share the example."""
    return NamedSharding(mesh, P(CONTEXT))


def batch_shards(mesh: Mesh) -> int:
    """The number of parts that a batch is split into."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


# --- inside the sharded step -----------------------------------------------------------------------------------------


def batch_shard_index() -> jax.Array:
    """Which part of the batch this device holds."""
    return lax.axis_index(DATA) * lax.axis_size(FSDP) + lax.axis_index(FSDP)


def sum_over_batch(tree: Any) -> Any:
    """Sums over the devices that hold different examples."""
    return lax.psum(tree, BATCH_AXES)


def varying_axes(x: jax.Array | jax.ShapeDtypeStruct) -> frozenset[str]:
    """The axes along which devices may hold different values of `x`."""
    kind = (x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)).manual_axis_type
    return frozenset() if kind is None else kind.varying  # None: a shape that was found outside of any mesh


def differing_axes() -> tuple[str, ...]:
    """The axes along which gradients differ until they are reduced."""
    return ALL_AXES if lax.axis_size(CONTEXT) > 1 else BATCH_AXES


def vary(tree: Any, axes: tuple[str, ...]) -> Any:
    """Marks arrays as differing between the devices of `axes`, so that their gradients stay local until reduced.

    Without the mark, the gradient of a replicated value is summed over those axes wherever the value is used: once a
    block and example instead of once a step, and before an example's own gradient can be clipped.
    """

    def mark(x: jax.Array) -> jax.Array:
        missing = tuple(axis for axis in axes if axis not in varying_axes(x))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(mark, tree)
