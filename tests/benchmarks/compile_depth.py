"""Compiles the gradient of a 48-block and of a 2-block stack, and prints the ratios of time and program size.

Run with `python tests/benchmarks/compile_depth.py`; the sizes of the programs are asserted by
tests/model/test_evoformer.py.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax

from evotrain.checks import resolve_mesh
from evotrain.compose import compose
from evotrain.data.pipeline import batch_shapes
from evotrain.data.sources import open_source
from evotrain.parallel.mesh import make_mesh
from evotrain.state import abstract_state
from evotrain.step import gradient_step

SHORT, DEEP = 2, 48


def compile_gradient(blocks: int) -> tuple[float, int]:
    """Seconds to compile, and characters of the optimised program."""
    config = compose([f"model.blocks={blocks}", "mesh.data=1"])
    mesh = make_mesh(resolve_mesh(config.mesh, jax.device_count()))
    state = abstract_state(config, mesh)
    batch = batch_shapes(open_source(config), config, mesh)
    lowered = gradient_step(config, mesh).lower(state.params, batch, state.examples)
    begun = time.perf_counter()
    compiled = lowered.compile()
    return time.perf_counter() - begun, len(compiled.as_text())


if __name__ == "__main__":
    compile_gradient(SHORT)  # warms up the compiler
    (short_time, short_size), (deep_time, deep_size) = compile_gradient(SHORT), compile_gradient(DEEP)
    for blocks, seconds, size in ((SHORT, short_time, short_size), (DEEP, deep_time, deep_size)):
        print(f"{blocks} blocks: {seconds:.1f} s, {size:,} characters")
    print(f"{DEEP} / {SHORT} blocks: time {deep_time / short_time:.2f}, size {deep_size / short_size:.2f}")
