"""The layers that every module is made of: Dense, LayerNorm, dropout, with AlphaFold's initialisation.

Parameters are float32; a layer computes in the dtype of its policy. Statistics of LayerNorm are float32.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from evotrain.config import Config

LAYER_NORM_EPSILON = 1e-5
# Standard deviation of a unit normal truncated at two deviations; dividing by it restores the intended variance.
TRUNCATED_NORMAL_STDDEV = 0.87962566103423978


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How modules compute, as opposed to what: chosen by `precision`, `kernels`, `mesh` and `model.init`."""

    dtype: np.dtype = np.dtype("float32")  # of activations and matrix products
    init: str = "af2"
    attention: str = "xla"  # its implementation, a key of `attention.ATTEND`
    remat: str = "block"  # what a stack's blocks keep for the backward pass, "none" or a key of `stack.REMAT_POLICIES`
    chunk_rows: int | None = (
        None  # of attention and outer product mean, at a time; None: all, on a CPU as many as its cache holds
    )

    @classmethod
    def of(cls, config: Config) -> "Policy":
        dtype, kernels = jnp.dtype(config.precision.compute), config.kernels
        # Where nothing is differentiated it does not matter, and is left to be chosen.
        remat = "block" if config.mesh.remat == "auto" else config.mesh.remat
        return cls(
            dtype=dtype, init=config.model.init, attention=kernels.attention, remat=remat, chunk_rows=kernels.chunk_rows
        )


class Dense(nnx.Module):
    """A linear map from the trailing dimensions `inputs` to the dimensions `outputs` (AlphaFold's Linear).

    `kind` says what the map is for, and so how AlphaFold initialises it: `linear`, `relu` (before a ReLU), `qkv`,
    `gate` (zero weights, unit bias: an open gate), `final` (zeros: the residual branch starts as the identity), and
    `bias` (a pair bias, normal with deviation 1/√c).
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        kind: str = "linear",
        bias: bool = True,
        policy: Policy,
        rngs: nnx.Rngs,
    ):
        self.input_dims = len(inputs)
        self.dtype = policy.dtype
        self.weights = nnx.Param(initial_weights(rngs.params(), inputs, outputs, kind=kind, scheme=policy.init))
        open_gate = kind == "gate" and policy.init == "af2"
        self.bias = nnx.Param(jnp.full(outputs, 1.0 if open_gate else 0.0, jnp.float32)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        contracted = tuple(range(x.ndim - self.input_dims, x.ndim)), tuple(range(self.input_dims))
        weights = self.weights[...].astype(self.dtype)
        y = jax.lax.dot_general(x.astype(self.dtype), weights, (contracted, ((), ())))
        if self.bias is None:
            return y
        bias = self.bias[...].astype(self.dtype)
        return y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last dimension, with AlphaFold's epsilon and two-pass variance."""

    def __init__(self, channels: int, *, policy: Policy):
        self.dtype = policy.dtype
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.offset = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        x = x.astype(wide)
        mean = jnp.mean(x, axis=-1, keepdims=True)
        centred = x - mean
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        channels = (1,) * (x.ndim - 1) + (-1,)
        scale, offset = self.scale[...].astype(wide).reshape(channels), self.offset[...].astype(wide).reshape(channels)
        return (centred * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * scale + offset).astype(self.dtype)


def dropout_mask(key: jax.Array | None, rate: float, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array | float:
    """What a residual update is multiplied by: 0 or 1/(1−rate), drawn once along the dimensions of size 1."""
    if key is None or rate == 0.0:
        return 1.0
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return keep.astype(dtype) / jnp.asarray(1.0 - rate, dtype)


def initial_weights(
    key: jax.Array, inputs: tuple[int, ...], outputs: tuple[int, ...], *, kind: str, scheme: str
) -> jax.Array:
    """Float32 weights of shape inputs + outputs, by AlphaFold's rule for the kind or LeCun's for all kinds."""
    shape = inputs + outputs
    fan_in = math.prod(inputs)
    if scheme == "lecun":
        return _truncated_normal(key, shape, math.sqrt(1.0 / fan_in))
    match kind:
        case "linear":
            return _truncated_normal(key, shape, math.sqrt(1.0 / fan_in))
        case "relu":
            return _truncated_normal(key, shape, math.sqrt(2.0 / fan_in))
        case "bias":
            return jax.random.normal(key, shape, jnp.float32) / math.sqrt(fan_in)
        case "gate" | "final":
            return jnp.zeros(shape, jnp.float32)
        case "qkv":
            # Glorot uniform with the fans of the last two dimensions: c of a three-dimensional weight (c, heads,
            # channels) counts as a receptive field, which makes the limit several times smaller than that of the same
            # matrix in two dimensions.
            *field, rows, columns = shape
            limit = math.sqrt(3.0 / (math.prod(field) * (rows + columns) / 2))
            return jax.random.uniform(key, shape, jnp.float32, -limit, limit)
    raise AssertionError(kind)


def _truncated_normal(key: jax.Array, shape: tuple[int, ...], stddev: float) -> jax.Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) * (stddev / TRUNCATED_NORMAL_STDDEV)
