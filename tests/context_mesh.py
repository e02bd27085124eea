"""A program on a context mesh against the same on one device: outputs and gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.parallel import fsdp
from evotrain.parallel.context import shard, sum_shards
from evotrain.parallel.mesh import ALL_AXES, CONTEXT, vary

Arrays = dict[str, Any]
ERROR = 1e-5


def assert_equal_on_context_mesh(
    program: Callable[[Arrays, Arrays, Arrays], Arrays],
    params: Arrays,
    inputs: Arrays,
    given: Arrays,
    *,
    devices: int,
    whole: tuple[str, ...] = (),
) -> None:
    """Asserts that (parameters, inputs, given) -> outputs computes on `devices` what it computes on one.

    Inputs and outputs are sharded along dimension 0, but for the inputs named in `whole`; `given` is whole. Gradients
    are of the products of the outputs with fixed random numbers, by parameters and inputs, taken as in the step.
    """

    def gradients(params: Arrays, inputs: Arrays, given: Arrays) -> Any:
        def loss(params: Arrays, inputs: Arrays) -> tuple[jax.Array, Arrays]:
            outputs = program(params, inputs, given)
            rng = np.random.default_rng(2)
            towards = {name: jnp.asarray(rng.normal(size=shapes[name].shape), jnp.float32) for name in sorted(shapes)}
            return sum_shards(sum(jnp.sum(x * shard(towards[name], 0)) for name, x in outputs.items())), outputs

        (by_params, by_inputs), outputs = jax.grad(loss, (0, 1), has_aux=True)(params, inputs)
        return outputs, by_params, by_inputs

    def on_a_shard(params: Arrays, inputs: Arrays, given: Arrays) -> Any:
        outputs, by_params, by_inputs = gradients(*vary((params, inputs), (CONTEXT,)), given)
        summed = {name: fsdp.sum_context(x) if name in whole else x for name, x in by_inputs.items()}
        return outputs, fsdp.sum_context(by_params), summed

    def run(f: Callable[..., Any]) -> Any:
        return jax.device_get(jax.jit(f).lower(params, inputs, given).compile(QUICK)(params, inputs, given))

    params, inputs, given = jax.tree.map(_float32, (params, inputs, given))
    shapes = jax.eval_shape(program, params, inputs, given)
    expected = run(gradients)
    mesh = jax.make_mesh((1, 1, devices), ALL_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:devices])
    specs = {name: P() if name in whole else P(CONTEXT) for name in inputs}
    found = run(jax.shard_map(on_a_shard, mesh=mesh, in_specs=(P(), specs, P()), out_specs=(P(CONTEXT), P(), specs)))
    error, array = largest_error(found, expected)
    print(f"{devices} devices: {error:.1e} {array}")
    assert error <= ERROR, array


def _float32(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype == np.float64 else x
