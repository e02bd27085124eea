"""Compiles programs for a TPU whose arrays exceed its VMEM, so that it is known what they read from HBM and write, each
operand once whatever tiles it is cut into.

A process of its own. It writes as JSON to standard output, for each program, the bytes that are known and those that
`plan.hbm` counts.
"""

import json
import os
from collections.abc import Callable

from evotrain.plan.compile import ENVIRONMENT, of_host

os.environ.update(ENVIRONMENT)

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import topologies
from jax.sharding import Mesh, PartitionSpec

from evotrain.plan.hbm import hbm_bytes
from evotrain.plan.hlo import parse

TOPOLOGY, DEVICES = "v5e:2x2", 4
ROWS, STEPS = 8192, 4
MATRIX = 4 * ROWS**2  # bytes: 256 MiB, twice a v5e's VMEM

matrix = jax.ShapeDtypeStruct((ROWS, ROWS), jnp.float32)
matrices = jax.ShapeDtypeStruct((STEPS, ROWS, ROWS), jnp.float32)


def added_up(x: jax.Array) -> jax.Array:
    """A loop that reads a matrix in each step, and reads and writes its carry."""
    return lax.scan(lambda carry, one: (jnp.tanh(carry) + one, None), jnp.zeros_like(x[0]), x)[0]


def each(x: jax.Array) -> jax.Array:
    """A loop that reads and writes a matrix in each step."""
    return lax.map(jnp.tanh, x)


PROGRAMS: dict[str, tuple[Callable, tuple[jax.ShapeDtypeStruct, ...], float]] = {
    "sum": (lambda x, y: x + y, (matrix, matrix), 3 * MATRIX),
    "fused": (lambda x: jnp.tanh(x) * x + jnp.exp(x), (matrix,), 2 * MATRIX),
    "row sums": (lambda x: jnp.sum(x, axis=1), (matrix,), MATRIX),
    "part of a row": (lambda x: x[:, : ROWS // 4] * 2, (matrix,), MATRIX / 2),
    "product": (lambda x, y: x @ y, (matrix, matrix), 3 * MATRIX),
    "batched product": (lambda x: jnp.einsum("aij,akj->aik", x, x), (matrices,), 2 * STEPS * MATRIX),
    "transposed product": (lambda x, y: jnp.einsum("ki,kj->ji", x, y), (matrix, matrix), 3 * MATRIX),
    "loop with a carry": (added_up, (matrices,), 3 * STEPS * MATRIX),
    "loop over rows": (each, (matrices,), 2 * STEPS * MATRIX),
    "all-reduce": (lambda x: lax.psum(x, "x"), (matrix,), 2 * MATRIX),
}


def main() -> None:
    chips = topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGY, chips_per_host_bounds=of_host(TOPOLOGY)
    )
    mesh = Mesh(chips.devices, ("x",))
    found = {}
    for name, (function, arguments, known) in PROGRAMS.items():
        # Every device has arrays of its own, of the shapes above.
        whole = [jax.ShapeDtypeStruct((DEVICES * x.shape[0], *x.shape[1:]), x.dtype) for x in arguments]
        own = PartitionSpec("x")
        program = jax.shard_map(function, mesh=mesh, in_specs=own, out_specs=own)
        found[name] = known, hbm_bytes(parse(jax.jit(program).lower(*whole).compile().as_text()), 1.0)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
