"""The device mesh, and what the step needs to know about its axes.

Axes, outermost first: `data` (replicas), `fsdp` (parameters and optimizer state sharded; the batch is split over
data × fsdp), `context` (one example shared, see `context.py`). Axis names occur only in this package and in `conf/`.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from evotrain.config import MeshConfig
from evotrain.errors import ConfigError

DATA, FSDP, CONTEXT = "data", "fsdp", "context"
BATCH_AXES = (DATA, FSDP)
ALL_AXES = (DATA, FSDP, CONTEXT)
BATCH_SPEC = P(BATCH_AXES)  # rows of a batch over data × fsdp, whole on every context shard
PAIR_ROWS_SPEC = P(BATCH_AXES, CONTEXT)  # ... and dimension 1 over the devices that share the example


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a resolved configuration (no −1 left) over all devices of all processes, or over `devices`.

    Raises:
      ConfigError: the TPU slices do not each hold whole replicas.
    """
    sizes = (config.data, config.fsdp, config.context)
    devices = (jax.devices() if devices is None else devices)[: math.prod(sizes)]
    return Mesh(_arrange(devices, sizes), ALL_AXES, axis_types=(AxisType.Auto,) * 3)


def _arrange(devices: Sequence[jax.Device], sizes: tuple[int, int, int]) -> np.ndarray:
    """The devices in an array of `sizes`, in which those of an inner axis are close to each other."""
    if devices[0].platform != "tpu":
        # Numbered host by host, whatever the order of the processes. On GPUs JAX calls each host a slice, but an axis
        # may well span several.
        return np.array(sorted(devices, key=lambda device: device.id)).reshape(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    data, *inner = sizes
    if data % slices:
        raise ConfigError(
            f"mesh.data={data} cannot be split over {slices} TPU slices, between which only replicas may stand: write "
            f"mesh.data={slices}, or a multiple of it."
        )
    # Splitting allows, say, eight devices of a 4 × 4 × 4 torus on an axis; where whole sides fit, they are still used.
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *inner), (slices, 1, 1), devices, allow_split_physical_axes=True
    )


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


def context_shards(mesh: Mesh) -> int:
    """The number of devices that share an example."""
    return mesh.shape[CONTEXT]


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
