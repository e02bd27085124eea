"""Comparing one of our modules or losses with DeepMind's, outputs and gradients, in float64 and float32.

An error is the largest absolute difference over the largest absolute value of an array. `pytest -rP` prints them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from quick_compile import QUICK

from evotrain.published_names import published_name

Arrays = dict[str, Any]
# (parameters, inputs, given) -> outputs by name; gradients are taken with respect to parameters and inputs.
Program = Callable[[Arrays, Arrays, Arrays], Arrays]

SPREAD = 0.2  # about that of trained weights at the widths of these tests
FLOAT64_ERROR, FLOAT32_ERROR = 1e-9, 1e-5
OF_REFERENCE = 3.0  # times the reference's own float32 error is allowed where that is more than FLOAT32_ERROR
# A gradient below this share of the largest one is nothing but rounding: in theory it is zero.
ROUNDING = 1e-9


def assert_equal_programs(
    name: str,
    ours: Callable[[np.dtype], Program],
    theirs: Program,
    params: Arrays,
    renamed: Callable[[Arrays], Arrays],
    inputs: Arrays,
    given: Arrays,
    *,
    vanishing: frozenset[str] = frozenset(),
    float64_error: float = FLOAT64_ERROR,
) -> None:
    """Asserts that outputs and gradients agree within the bars, and prints the largest errors.

    `ours(dtype)` computes in that dtype; `theirs` takes parameters under the reference's names, which `renamed` gives.
    `params`, `inputs` and the floats of `given` are float64. `vanishing` names the parameters (as `keystr` writes the
    reference's) whose gradient is zero in theory; they are compared with the largest gradient.
    """
    reference = renamed(params)
    jax.clear_caches()  # with constants that another test has made float32
    with jax.enable_x64(True):
        ours_64 = evaluate(ours(np.dtype("float64")), params, inputs, given, np.float64)
        theirs_64 = evaluate(theirs, reference, inputs, given, np.float64)
    ours_32 = evaluate(ours(np.dtype("float32")), params, inputs, given, np.float32)

    def under_reference_names(found: tuple[Arrays, Any]) -> tuple[Arrays, Any]:
        outputs, (by_params, by_inputs) = found
        return outputs, (renamed(by_params), by_inputs)

    exact, rounded = (errors(under_reference_names(found), theirs_64) for found in (ours_64, ours_32))
    report(name, exact, rounded)
    assert set(vanishing_gradients(theirs_64)) == vanishing
    assert not {array: error for array, error in exact.items() if error > float64_error}
    coarse = {array: error for array, error in rounded.items() if error > FLOAT32_ERROR}
    if coarse:
        own = errors(evaluate(theirs, reference, inputs, given, np.float32), theirs_64)
        assert not {array: error for array, error in coarse.items() if error > OF_REFERENCE * own[array]}


def random_params(shapes: Any, spread: float = SPREAD) -> Arrays:
    """Normal in float64, none of them zero, so that no gradient is; LayerNorm's scales around one."""
    rng = np.random.default_rng(1)

    def draw(path: tuple, x: Any) -> np.ndarray:
        return float(path[-1].key == "scale") + spread * rng.normal(size=x.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def reference_params(params: Arrays, ours: str, theirs: str) -> Arrays:
    """Our parameters as the reference names them, {module: {parameter: array}}.

    `params` are those of the part that stands at the path `ours` of the whole network, and `theirs` is the prefix of
    the published names that the reference's module lacks when it stands alone.
    """
    renamed: Arrays = {}
    for path, value in flatten_dict(params, sep="/").items():
        module, parameter = published_name(f"{ours}/{path}" if ours else path).split("//")
        assert module.startswith(theirs), (module, theirs)
        renamed.setdefault(module.removeprefix(theirs).lstrip("/"), {})[parameter] = value
    return renamed


def evaluate(function: Program, params: Arrays, inputs: Arrays, given: Arrays, dtype: Any) -> tuple[Arrays, Any]:
    """Outputs, and the gradients of their products with fixed random numbers by (parameters, inputs)."""

    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda x: np.asarray(x, dtype if x.dtype == np.float64 else x.dtype), tree)

    @partial(jax.jit, compiler_options=QUICK)
    def both(params: Arrays, inputs: Arrays) -> tuple[Arrays, Any]:
        outputs, pull_back = jax.vjp(lambda *args: function(*args, cast(given)), params, inputs)
        rng = np.random.default_rng(2)
        towards = {name: jnp.asarray(rng.normal(size=outputs[name].shape), dtype) for name in sorted(outputs)}
        return outputs, pull_back(towards)

    outputs, gradients = jax.device_get(both(cast(params), cast(inputs)))
    assert all(x.dtype == dtype for x in jax.tree.leaves((outputs, gradients)))
    return outputs, gradients


def vanishing_gradients(found: tuple[Arrays, Any]) -> dict[str, float]:
    """The parameters whose gradient is nothing but rounding, and the size of the largest gradient."""
    by_params, _ = found[1]
    sizes = {jax.tree_util.keystr(path): np.abs(x).max() for path, x in jax.tree.leaves_with_path(by_params)}
    largest = max(sizes.values(), default=0.0)
    return {path: float(largest) for path, size in sizes.items() if size < ROUNDING * largest}


def errors(ours: tuple[Arrays, Any], theirs: tuple[Arrays, Any]) -> dict[str, float]:
    """The error of each output and gradient; of a vanishing gradient relative to the largest one."""
    scales = {f"[1][0]{path}": largest for path, largest in vanishing_gradients(theirs).items()}

    def error(path: str, a: np.ndarray, b: np.ndarray) -> float:
        assert a.shape == b.shape
        scale = scales.get(path, np.abs(b).max())
        # An input that a module does not use has gradient 0 on both sides.
        return float(np.abs(a - b).max() / scale) if scale or a.any() else 0.0

    pairs = zip(jax.tree.leaves_with_path(ours), jax.tree.leaves_with_path(theirs), strict=True)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    return {jax.tree_util.keystr(path): error(jax.tree_util.keystr(path), a, b) for (path, a), (_, b) in pairs}


def report(name: str, exact: dict[str, float], rounded: dict[str, float]) -> None:
    """One line of the README's table: the largest error of outputs and of gradients, in float64 and in float32."""
    largest = [
        max((found[k] for k in found if k.startswith(part)), default=0.0)
        for found in (exact, rounded)
        for part in ("[0]", "[1]")
    ]
    print("{:28s} float64 fwd {:.1e} bwd {:.1e}, float32 fwd {:.1e} bwd {:.1e}".format(name, *largest))
