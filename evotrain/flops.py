"""Floating-point operations of a traced program, counted where they are: in its matrix products."""

import math
from typing import Any

from jax.extend import core

# Attention kernels: how many products of queries · keys · channels they make, and which of their inputs is q, before k.
# Forward logits and output; backward the logits again, and the gradients of the weights, q, k and v.
ATTENTION_KERNELS = {"triangle_attention_fwd": (2, 0), "triangle_attention_bwd": (5, 3)}


def count_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr, open_trips: float = 1.0) -> float:
    """Multiplications and additions of all matrix products, a loop's as often as it runs, those in kernels included.

    `open_trips` is how often a loop runs whose length the program draws: recycling. Inside a `shard_map` these are the
    operations of one device. What the backward pass recomputes counts again. (XLA's own cost analysis counts the body
    of a loop once.)
    """
    return sum(_flops(eqn, open_trips) for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _flops(eqn: Any, open_trips: float) -> float:
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        summed = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
        return 2 * summed * math.prod(eqn.outvars[0].aval.shape)
    if eqn.primitive.name in ATTENTION_KERNELS:
        products, q = ATTENTION_KERNELS[eqn.primitive.name]
        keys = eqn.invars[q + 1].aval.shape[-2]
        return 2 * products * math.prod(eqn.invars[q].aval.shape) * keys
    inner = [value for param in eqn.params.values() for value in _jaxprs(param)]
    if eqn.primitive.name == "cond":
        return max(count_flops(branch, open_trips) for branch in inner)
    trips = open_trips if eqn.primitive.name == "while" else eqn.params.get("length", 1)
    return trips * sum(count_flops(body, open_trips) for body in inner)


def _jaxprs(param: Any) -> list[Any]:
    if isinstance(param, core.Jaxpr | core.ClosedJaxpr):
        return [param]
    return [value for item in param for value in _jaxprs(item)] if isinstance(param, tuple | list) else []
