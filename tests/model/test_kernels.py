"""cuEquivariance's attention against ours, on the plain JAX that the package runs on a CPU; and where it is refused."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from quick_compile import QUICK
from tree_error import largest_error

from evotrain.compose import compose
from evotrain.config import Config, KernelsConfig, MeshConfig, ModelConfig, OptimizerConfig
from evotrain.data_config import SyntheticConfig
from evotrain.errors import ConfigError
from evotrain.evaluate import evaluate_run
from evotrain.flops import count_flops
from evotrain.model import kernels
from evotrain.model.attention import attend
from evotrain.model.kernels import attend_cueq, check_available
from evotrain.parallel.mesh import CONTEXT, batch_sharding, make_mesh
from evotrain.state import create_state
from evotrain.step import gradient_step
from evotrain.train import train

ROWS, POSITIONS, HEADS, CHANNELS = 6, 5, 2, 4
PRIVATE = "cuequivariance_jax.triangle._triangle_attention"
PRIMITIVES = ("triangle_attention_fwd", "triangle_attention_bwd")


@pytest.fixture
def cueq():
    return pytest.importorskip("cuequivariance_jax")


def arguments(dtype="float32"):
    """q, k, v, a mask with one row of a single key and one of none, bias."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(ROWS, POSITIONS, HEADS, CHANNELS)), dtype) for _ in range(3))
    mask = rng.random((ROWS, POSITIONS)) < 0.7
    mask[1], mask[2, 1:] = False, False
    bias = rng.normal(size=(HEADS, POSITIONS, POSITIONS))
    return q, k, v, jnp.asarray(mask, "float32"), jnp.asarray(bias, dtype)


def gradients(function):
    """(q, k, v, mask, bias) -> the attention's output and the gradients of its square by q, k, v and bias."""

    def run(q, k, v, mask, bias):
        def loss(q, k, v, bias):
            y = function(q, k, v, mask, bias)
            return jnp.sum(jnp.square(y.astype(jnp.float32))), y

        return jax.grad(loss, (0, 1, 2) if bias is None else (0, 1, 2, 3), has_aux=True)(q, k, v, bias)

    return run


def kernels_in(function, *given) -> list[bool]:
    """Whether the forward and the backward kernel occur in the program."""
    program = str(jax.make_jaxpr(function)(*given))
    return [name in program for name in PRIMITIVES]


@pytest.mark.parametrize(("dtype", "bar"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("biased", [True, False])
def test_cueq_equals_xla(cueq, dtype, bar, biased):
    *given, bias = arguments(dtype)
    given.append(bias if biased else None)
    cueq, xla = gradients(attend_cueq), gradients(attend)
    assert kernels_in(cueq, *given) == [True, True]
    assert kernels_in(xla, *given) == [False, False]

    found, expected = jax.jit(cueq)(*given), jax.jit(xla)(*given)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)
    error, array = largest_error(found, expected)
    assert error < bar, array


def test_a_row_without_any_valid_key_does_not_reach_the_kernel(cueq, monkeypatch):
    """What the kernel returns of such a row is arbitrary: here it is NaN."""

    class Arbitrary:
        def __init__(self, primitive, mask_index):
            self.primitive, self.mask_index = primitive, mask_index

        def bind(self, *operands, **parameters):
            empty = ~jnp.any(operands[self.mask_index], axis=-1, keepdims=True)  # [1, R, 1, 1, 1]
            returned = self.primitive.bind(*operands, **parameters)
            return [jnp.where(empty, jnp.nan, x) if x.shape[1] == ROWS else x for x in returned]

    forward, backward = (Arbitrary(*pair) for pair in zip(kernels._primitives(), (4, 7), strict=True))
    q, k, v, mask, bias = arguments()
    operands = (*(jnp.swapaxes(x, 1, 2)[None] for x in (q, k, v)), bias[None, None], mask[None, :, None, None] > 0)
    unprotected = forward.bind(*operands, **kernels._parameters(q))[0]
    assert np.isnan(unprotected).any(axis=(0, 2, 3, 4)).tolist() == [row == 1 for row in range(ROWS)]

    monkeypatch.setattr(kernels, "_primitives", lambda: (forward, backward))
    found, expected = (jax.jit(gradients(function))(*arguments()) for function in (attend_cueq, attend))
    error, array = largest_error(found, expected)
    assert error < 1e-5, array


@pytest.mark.parametrize("examples", [1, 2])
def test_vmap_gives_each_example_its_own_bias(cueq, examples):
    batch = jax.tree.map(lambda x: jnp.stack([x * (1 + i) for i in range(examples)]), arguments())
    found, expected = (jax.jit(jax.vmap(gradients(function)))(*batch) for function in (attend_cueq, attend))
    error, array = largest_error(found, expected)
    assert error < 1e-5, array


def test_cueq_on_two_devices_equals_xla_on_one(cueq):
    """Rows sharded, the bias the same on both devices, inside a scan over layers that are computed again backward."""
    mesh, rows = make_mesh(MeshConfig(data=1, fsdp=1, context=2)), P(CONTEXT)

    def layers(function):
        def run(q, k, v, mask, bias):
            layer = jax.checkpoint(lambda q, _: (q + function(q, k, v, mask, bias), None))
            return lax.scan(layer, q, length=2)[0]

        return gradients(run)

    sharded = jax.shard_map(
        layers(attend_cueq),
        mesh=mesh,
        in_specs=(rows, rows, rows, rows, P()),
        out_specs=((rows, rows, rows, P()), rows),
        check_vma=True,
    )
    assert kernels_in(sharded, *arguments()) == [True, True]
    found = jax.jit(sharded)(*arguments())
    error, array = largest_error(found, jax.jit(layers(attend))(*arguments()))
    assert error < 1e-5, array
    by_bias = [np.asarray(shard.data) for shard in found[0][3].addressable_shards]
    assert np.array_equal(*by_bias)


@pytest.mark.slow
def test_gradients_of_the_sharded_step(cueq):
    """Every attention of a block, with sequences and residues of which nothing is valid."""
    config = Config(
        name="test",
        steps=1,
        batch_size=2,
        eval_every=0,
        model=ModelConfig(blocks=1, c_m=8, c_z=8, msa_heads=2, pair_heads=2, c_triangle=8, init="lecun"),
        mesh=MeshConfig(data=1, fsdp=2, context=2),
        optimizer=OptimizerConfig(clip="none"),
        data=SyntheticConfig(crop=8, msa_clusters=4),
    )
    mesh = make_mesh(config.mesh)
    state = create_state(config, mesh)
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(size=(2, *size, 8)) for name, size in (("msa", (4, 8)), ("pair", (8, 8)))}
    batch |= {f"{name}_mask": rng.random(x.shape[:-1]) < 0.7 for name, x in batch.items()}
    batch["msa_mask"][:, 1], batch["pair_mask"][:, 2], batch["pair_mask"][:, :, 5] = False, False, False
    batch["skipped"] = np.zeros(2)
    batch = {name: jax.device_put(x.astype(np.float32), batch_sharding(mesh)) for name, x in batch.items()}

    given = (state.params, batch, state.examples)
    xla = gradient_step(config, mesh)
    cueq = gradient_step(replace(config, kernels=KernelsConfig(attention="cueq")), mesh)
    assert kernels_in(cueq, *given) == [True, True]
    assert kernels_in(xla, *given) == [False, False]
    found, expected = (step.lower(*given).compile(QUICK)(*given) for step in (cueq, xla))
    error, array = largest_error(found, expected)
    assert error < 1e-5, array


def test_operations_inside_the_kernels_are_counted(cueq):
    product = 2 * ROWS * HEADS * POSITIONS * POSITIONS * CHANNELS
    counts = []
    for function in (attend_cueq, attend):
        programs = jax.make_jaxpr(function)(*arguments()), jax.make_jaxpr(gradients(function))(*arguments())
        counts.append([count_flops(program) / product for program in programs])
    # Backward, the kernel computes the logits again.
    assert counts == [[2, 7], [2, 6]]


# --- where it cannot run -----------------------------------------------------------------------------------------


def with_cueq(*overrides: str) -> Config:
    return compose(["kernels=cueq", "precision=bf16", *overrides])


def test_without_an_nvidia_gpu(one_device, tmp_path):
    config = with_cueq(f"run_dir={tmp_path / 'run'}")
    for refuse in (check_available, train, evaluate_run):
        with pytest.raises(ConfigError, match="runs on NVIDIA GPUs, but the devices here are cpu: write kernels=xla"):
            refuse(config)
    assert not any(tmp_path.iterdir())
    check_available(compose())


def test_without_the_package(monkeypatch):
    gpu = SimpleNamespace(client=SimpleNamespace(platform_version="cuda 13000"), device_kind="NVIDIA H100")
    monkeypatch.setattr(jax, "devices", lambda: [gpu])
    monkeypatch.setitem(sys.modules, "cuequivariance_ops_jax", None)
    with pytest.raises(ConfigError, match=r'cannot load cuEquivariance \(.*\): pip install "evotrain\[kernels\]"'):
        check_available(with_cueq())
    for name in ("cuequivariance_ops_jax", "cuequivariance_jax", "cuequivariance_jax.triangle", PRIVATE):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(
        ConfigError, match=r"cannot load cuEquivariance \(cannot import name 'bwd_p'"
    ):  # another version
        check_available(with_cueq())
    monkeypatch.setattr(kernels, "_primitives", lambda: ())
    check_available(with_cueq())
