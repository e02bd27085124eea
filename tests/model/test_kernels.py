"""cuEquivariance's attention against ours, on the plain JAX that the package runs on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from tree_error import largest_error

from evotrain.compose import compose
from evotrain.config import MeshConfig
from evotrain.errors import ConfigError
from evotrain.flops import count_flops
from evotrain.model import kernels
from evotrain.model.attention import ATTEND, attend
from evotrain.model.kernels import attend_cueq, check_available
from evotrain.parallel.mesh import ALL_AXES, CONTEXT, make_mesh

ROWS, QUERIES, HEADS, CHANNELS = 6, 5, 2, 4
LAYERS = 2
FORWARD, BACKWARD = "triangle_attention_fwd", "triangle_attention_bwd"


@pytest.fixture
def cueq():
    return pytest.importorskip("cuequivariance_jax")


def arguments(dtype="float32"):
    """q, k, v, mask with a row that is partly and one that is wholly masked, bias."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(ROWS, QUERIES, HEADS, CHANNELS)), dtype) for _ in range(3))
    mask = rng.random((ROWS, QUERIES)) < 0.7
    mask[1], mask[2, 1:] = False, False
    bias = rng.normal(size=(HEADS, QUERIES, QUERIES))
    return q, k, v, jnp.asarray(mask, "float32"), jnp.asarray(bias, dtype)


def gradients(function):
    """(q, k, v, mask, bias) -> the attention's output and the gradients of its square by q, k, v and bias."""

    def run(q, k, v, mask, bias):
        def loss(q, k, v, bias):
            y = function(q, k, v, mask, bias)
            return jnp.sum(jnp.square(y.astype(jnp.float32))), y

        grads, y = jax.grad(loss, (0, 1, 2) if bias is None else (0, 1, 2, 3), has_aux=True)(q, k, v, bias)
        return y, grads

    return run


@pytest.mark.parametrize(("dtype", "bar"), [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("biased", [True, False])
def test_cueq_equals_xla(cueq, dtype, bar, biased):
    *given, bias = arguments(dtype)
    given = (*given, bias if biased else None)
    programs = [str(jax.make_jaxpr(gradients(function))(*given)) for function in (attend_cueq, attend)]
    assert [FORWARD in program and BACKWARD in program for program in programs] == [True, False]

    found, expected = (jax.jit(gradients(function))(*given) for function in (attend_cueq, attend))
    assert jax.tree.map(jnp.dtype, found) == jax.tree.map(jnp.dtype, expected)
    error, array = largest_error(found, expected)
    assert error < bar, array


def test_queries_and_keys_may_differ_in_number(cueq):
    q, k, v, mask, bias = arguments()
    given = (q[:, :3], k, v, mask, bias[:, :3])
    error, array = largest_error(gradients(attend_cueq)(*given), gradients(attend)(*given))
    assert error < 1e-6, array


def test_a_row_without_any_valid_key_does_not_reach_the_kernel(cueq, monkeypatch):
    """The kernel's values and gradients of such a row are arbitrary: here they are NaN."""

    class Poisoned:
        def __init__(self, primitive, mask_index):
            self.primitive, self.mask_index = primitive, mask_index

        def bind(self, *operands, **parameters):
            empty = ~jnp.any(operands[self.mask_index], axis=-1, keepdims=True)  # [1, R, 1, 1, 1]
            returned = self.primitive.bind(*operands, **parameters)
            return [jnp.where(empty, jnp.nan, x) if x.shape[1] == ROWS else x for x in returned]

    forward, backward = kernels._primitives()
    monkeypatch.setattr(kernels, "_primitives", lambda: (Poisoned(forward, 4), Poisoned(backward, 7)))
    error, array = largest_error(gradients(attend_cueq)(*arguments()), gradients(attend)(*arguments()))
    assert error < 1e-6, array


@pytest.mark.parametrize("examples", [1, 2])
def test_vmap_gives_each_example_its_own_bias(cueq, examples):
    batch = jax.tree.map(lambda x: jnp.stack([x * (1 + i) for i in range(examples)]), arguments())
    found, expected = (jax.jit(jax.vmap(gradients(function)))(*batch) for function in (attend_cueq, attend))
    error, array = largest_error(found, expected)
    assert error < 1e-6, array


def test_cueq_on_two_devices_equals_xla_on_one(cueq):
    """Rows sharded, the bias shared, inside a scan of rematerialised layers and a vmap of one example, as in the step."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, context=2))
    rows = P(None, CONTEXT)

    def layers(function):
        def run(q, k, v, mask, bias):
            @jax.checkpoint
            def layer(q, _):
                return q + function(q, k, v, mask, bias), None

            return lax.scan(layer, q, length=LAYERS)[0]

        return jax.vmap(run)

    def step(q, k, v, mask, bias):
        y, (by_q, by_k, by_v, by_bias) = gradients(layers(attend_cueq))(q, k, v, mask, bias)
        return y, (by_q, by_k, by_v, by_bias)

    specs = (rows, rows, rows, rows, P())
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=specs, out_specs=(rows, (rows, rows, rows, P())), check_vma=True
    )
    batch = jax.tree.map(lambda x: x[None], arguments())
    program = str(jax.make_jaxpr(sharded)(*batch))
    assert f"{FORWARD}[" in program
    assert f"float32[1,{ROWS // 2},{HEADS},{QUERIES},{CHANNELS}]" in program or "f32[1,3,2,5,4]" in program
    error, array = largest_error(jax.jit(sharded)(*batch), gradients(layers(attend))(*batch))
    assert error < 1e-6, array
