"""Compiles the real training step for TPUs that this machine does not have.

    python -m evotrain.plan.compile DIRECTORY

is a process of its own, so that libtpu neither slows down nor chatters into another. It reads DIRECTORY/config.yaml,
whose mesh is resolved, writes what tracing the step tells as DIRECTORY/program.json, and has the compiler write its
optimized program and its plan of the memory into DIRECTORY. After these the compiler would make machine code, most of
its work, which says nothing more: so the process ends as soon as both are there.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

# Before jax is imported.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two plans may be made at once
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # what comes from there writes nothing
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

CONFIG, PROGRAM, FAILURE = "config.yaml", "program.json", "failure.txt"
HLO, BUFFERS, LIVE = (f"*after_optimizations{part}.txt" for part in ("", "-buffer-assignment", "-live-range"))
DUMPS = (HLO, BUFFERS, LIVE)
POLL_SECONDS, STEADY_POLLS = 0.25, 4  # a file that has not grown for as long is complete


def main(directory: Path) -> None:
    """Compiles what `directory` describes; a failure of the compiler is written there."""
    os.environ.update(ENVIRONMENT)
    import jax
    from jax.experimental import topologies

    from evotrain.compose import load_saved
    from evotrain.flops import count_flops
    from evotrain.model.network import network
    from evotrain.parallel.fsdp import is_stacked
    from evotrain.parallel.mesh import make_mesh
    from evotrain.plan.program import traced_step

    config = load_saved(directory / CONFIG)
    name = config.target.topology
    slice_of = topologies.get_topology_desc(platform="tpu", topology_name=name, chips_per_host_bounds=of_host(name))
    traced = traced_step(config, make_mesh(config.mesh, slice_of.devices))
    flops = count_flops(traced.jaxpr, open_trips=config.model.recycles / 2)
    leaves = jax.tree.leaves_with_path(network(config)[1])
    # A block's weights and gradients too, which are slices of these; but masks of a shard may look like a matrix.
    of_block = [x.shape[1:] for path, x in leaves if is_stacked(path) and x.ndim > 3]
    parameters = [x.shape for _, x in leaves] + of_block
    (directory / PROGRAM).write_text(json.dumps({"flops": flops, "parameters": parameters}))
    lowered = traced.lower()

    threading.Thread(target=leave_when_written, args=(directory,), daemon=True).start()
    try:
        lowered.compile({"xla_dump_to": str(directory), "xla_dump_hlo_as_text": True})
    except jax.errors.JaxRuntimeError as error:
        (directory / FAILURE).write_text(str(error))


def all_written(directory: Path) -> bool:
    """Whether everything that a plan is read from is in `directory`."""
    return (directory / PROGRAM).exists() and all(any(directory.glob(pattern)) for pattern in DUMPS)


def of_host(topology: str) -> tuple[int, int, int]:
    """Chips of one machine along each side of a slice such as "v5p:4x4x8": 2 × 2, or fewer where there are no more.

    libtpu takes 2 × 2 where it is not told, also for a slice of a single chip, which it then refuses.
    """
    columns, rows, *_ = map(int, topology.partition(":")[2].split("x"))
    return min(columns, 2), min(rows, 2), 1


def leave_when_written(directory: Path) -> None:
    """Ends the process when the compiler has written what is wanted, all of it."""
    before, steady = [], 0
    while steady < STEADY_POLLS:
        time.sleep(POLL_SECONDS)
        written = [file.stat().st_size for pattern in DUMPS for file in directory.glob(pattern)]
        steady = steady + 1 if len(written) == len(DUMPS) and written == before and min(written) > 0 else 0
        before = written
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
