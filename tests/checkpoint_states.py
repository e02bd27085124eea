"""A small training state, checkpoints of it, and comparison to the bit."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from evotrain.checkpoint import Checkpoints
from evotrain.config import CheckpointConfig

KEEP_2 = CheckpointConfig(keep=2)


def make_state(seed: int = 0) -> dict:
    """A small training state with every dtype that a run has, and the named tuples of optax."""
    rng = np.random.default_rng(seed)
    params = {
        "evoformer": {"w": jnp.asarray(rng.standard_normal((3, 32, 8)), jnp.float32), "b": jnp.ones((), jnp.float32)},
        "head": jnp.asarray(rng.standard_normal((8, 4)), jnp.bfloat16),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return {"step": jnp.int32(seed), "params": params, "opt_state": optimizer.init(params), "ema": params}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_same_bits(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def save_steps(directory: Path, *steps: int) -> None:
    with Checkpoints(directory, KEEP_2) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), meta={"examples": 8 * step}, metrics={"loss": 1.0 / step})


def run_python(script: str, *arguments: object, devices: int = 1, **options) -> subprocess.CompletedProcess:
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False, **options)
