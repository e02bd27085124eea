"""Whether a run fits into the memory of its machine: the kernel would end it later without a word."""

import os
from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from evotrain.config import Config
from evotrain.data.pipeline import local_rows
from evotrain.errors import ConfigError
from evotrain.parallel.mesh import batch_sharding
from evotrain.plan.footprint import memory_of
from evotrain.plan.result import GIB


def check_host_memory(config: Config, batch: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh) -> None:
    """Refuses a run that needs more memory than this machine has, whatever else runs there.

    That is for the batches that wait, and on a CPU for the step too, by formula. `config.mesh` and its remat are
    resolved.

    Raises:
      ConfigError: what needs how much, and what to lower.
    """
    example = sum(x.size * x.dtype.itemsize for x in batch.values()) / config.batch_size
    local = example * len(local_rows(batch_sharding(mesh), config.batch_size))
    waiting, step = config.data.prefetch * local, 0.0
    if mesh.local_devices[0].platform == "cpu":
        step = local + len(mesh.local_devices) * memory_of(config, 0.0).total
    if waiting + step > total_memory():
        of_step = f", and the step takes about {step / GIB:.1f} GiB" if step else ""
        raise ConfigError(
            f"the run needs more than this machine's {total_memory() / GIB:.1f} GiB of memory: data.prefetch="
            f"{config.data.prefetch} batches of {local / GIB:.2f} GiB wait for their turn{of_step}: lower "
            "data.prefetch, batch_size, data.crop or the model's sizes."
        )


def total_memory() -> float:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
