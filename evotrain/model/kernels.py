"""Attention by a vendor's kernel in place of XLA, and whether this machine has that kernel.

Dimensions: R independent rows, Q queries, K keys, H heads, D channels of a head. cuEquivariance adds a leading 1 for
the example, and puts heads before positions.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from evotrain.config import Config
from evotrain.errors import ConfigError
from evotrain.parallel.mesh import vary, varying_axes


def check_available(config: Config) -> None:
    """Refuses a kernel that this machine cannot run. Looks at the devices; nothing is compiled.

    Raises:
      ConfigError: what is missing, and how to get it or do without.
    """
    if config.kernels.attention != "cueq":
        return
    device = jax.devices()[0]
    if "cuda" not in device.client.platform_version:
        raise ConfigError(
            f"kernels.attention=cueq runs on NVIDIA GPUs, but the devices here are {device.device_kind}: write "
            'kernels=xla, or, where there is such a GPU, pip install "evotrain[gpu]".'
        )
    try:
        import cuequivariance_ops_jax  # noqa: F401 — the CUDA kernels, a package of their own

        _primitives()
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise ConfigError(
            f"kernels.attention=cueq cannot load cuEquivariance ({str(error).splitlines()[0]}): "
            'pip install "evotrain[kernels]", or write kernels=xla.'
        ) from error


def attend_cueq(
    q_RQHD: jax.Array, k_RKHD: jax.Array, v_RKHD: jax.Array, mask_RK: jax.Array, bias_HQK: jax.Array | None
) -> jax.Array:
    """What `attention.attend` computes, by cuEquivariance's triangle attention -> [R, Q, H, D].

    The logits and their gradient exist only tile by tile inside the kernel, where the gradient of the bias is summed
    over the rows. On other platforms than CUDA the package computes the same in plain JAX, which is how it is tested.
    """
    (rows, queries, heads, _), keys = q_RQHD.shape, k_RKHD.shape[1]
    bias_HQK = jnp.zeros((heads, queries, keys)) if bias_HQK is None else bias_HQK.astype(jnp.float32)
    # Of a row without any valid key the kernel promises nothing: neither its values nor the gradient of v. It is given
    # one key, which makes it a row like any other, and its output is then replaced by the uniform average.
    valid_RK = mask_RK > 0
    empty_R = ~jnp.any(valid_RK, axis=1)
    valid_RK = valid_RK.at[:, 0].set(valid_RK[:, 0] | empty_R)

    q, k, v = (jnp.swapaxes(x, 1, 2)[None] for x in (q_RQHD, k_RKHD, v_RKHD))
    operands = (q, k, v, bias_HQK[None, None], valid_RK[None, :, None, None])
    # All marked alike outside of the custom derivative, so that the gradient of a bias that the devices share is summed
    # over them by JAX, as it is for any other operation.
    axes = frozenset().union(*map(varying_axes, operands))
    out_RHQD = _attention(*vary(operands, tuple(sorted(axes))))[0]

    uniform_R1HD = jnp.mean(v_RKHD, axis=1, keepdims=True, dtype=jnp.float32).astype(v_RKHD.dtype)
    return jnp.where(empty_R.reshape(rows, 1, 1, 1), uniform_R1HD, jnp.swapaxes(out_RHQD, 1, 2))


# The package's own function has a derivative, but not inside a `shard_map` that checks which axes a value varies along:
# what its primitives return has lost them. So its two primitives get a derivative here that restores them.
@jax.custom_vjp
def _attention(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, mask: jax.Array) -> jax.Array:
    """q, k, v [1, R, H, positions, D], bias [1, 1, H, Q, K], boolean mask [1, R, 1, 1, K] -> as q."""
    return _forward(q, k, v, bias, mask)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, mask: jax.Array) -> tuple[jax.Array, tuple]:
    forward, _ = _primitives()
    returned = forward.bind(q, k, v, bias, mask, **_parameters(q))
    out, log_sum_exp, _ = vary(returned, tuple(varying_axes(q)))
    return out, (out, log_sum_exp, q, k, v, bias, mask)


def _backward(residuals: tuple, gradient: jax.Array) -> tuple:
    _, backward = _primitives()
    q = residuals[2]
    returned = backward.bind(gradient, *residuals, **_parameters(q))
    return *vary(returned, tuple(varying_axes(q))), None


_attention.defvjp(_forward, _backward)


def _parameters(q: jax.Array) -> dict[str, Any]:
    # The default precision of float32 is TF32, the only one that the backward kernel has.
    return {"scale": q.shape[-1] ** -0.5, "precision": lax.Precision.DEFAULT}


def _primitives() -> tuple[Any, Any]:
    """cuEquivariance's forward and backward primitive; they have no public name. The package is optional."""
    from cuequivariance_jax.triangle._triangle_attention import bwd_p, fwd_p

    return fwd_p, bwd_p
