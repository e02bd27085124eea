"""What `mesh.remat=auto` means on the devices of a run."""

from dataclasses import replace

import jax

from evotrain.config import Config
from evotrain.parallel import distributed
from evotrain.plan.result import GIB
from evotrain.plan.search import least_remat


def resolve_remat(config: Config) -> Config:
    """The configuration with auto made the least recomputation that fits the devices; `config.mesh` has no −1 left.

    Where their memory is not known, as on a CPU, all of each block is computed again. Every process must call it.
    """
    if config.mesh.remat != "auto":
        return config
    memory = distributed.from_process_0(_device_memory(config))  # which may differ by some bytes elsewhere
    remat = "block" if memory is None else least_remat(config, memory)
    return replace(config, mesh=replace(config.mesh, remat=remat))


def _device_memory(config: Config) -> float | None:
    """Bytes of one device: by the target, or else as the device says."""
    if config.target.memory_gib is not None:
        return config.target.memory_gib * GIB
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
