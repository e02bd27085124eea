"""Outputs and gradients equal those of DeepMind's Haiku modules with the same parameters, module by module.

An error is the largest absolute difference over the largest absolute value of an array. `pytest -rP` prints them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.losses import distogram_loss, masked_msa_loss
from evotrain.model.evoformer import EvoformerBlock
from evotrain.model.heads import DistogramHead, MaskedMSAHead
from evotrain.model.layers import Policy
from evotrain.model.network import bind

pytest.importorskip("alphafold", reason="the reference, DeepMind's code, is in the extra `test`")
from haiku_reference import HEADS, PARTS, Arrays, reference, reference_params
from quick_compile import QUICK

# All different, so that a transposition shows.
SEQUENCES, RESIDUES = 5, 7
CONFIG = ModelConfig(blocks=1, c_m=24, c_z=16, msa_heads=4, pair_heads=2, c_outer=6, c_triangle=12, transition_factor=3)
SPREAD = 0.2  # about that of trained weights at these widths
FLOAT64_ERROR, FLOAT32_ERROR = 1e-9, 1e-5
OF_REFERENCE = 3.0  # times the reference's own float32 error is allowed where that is more than FLOAT32_ERROR
# A gradient below this share of the largest one is nothing but rounding. In theory these are zero: an offset of what
# the pair bias is made of shifts all keys of a query alike, to which the softmax is blind.
ROUNDING = 1e-9
ROW_ATTENTION = "msa_row_attention_with_pair_bias"
VANISHING = {
    "row_attention": {f"['{ROW_ATTENTION}/feat_2d_norm']['offset']"},
    "block": {f"['block/{ROW_ATTENTION}/feat_2d_norm']['offset']"},
}

ARGUMENTS = dict.fromkeys(PARTS, ("z", "pair_mask")) | {
    "row_attention": ("m", "z", "msa_mask"),
    "column_attention": ("m", "msa_mask"),
    "msa_transition": ("m",),
    "outer_product_mean": ("m", "msa_mask"),
    "pair_transition": ("z",),
}


@pytest.mark.parametrize("name", [*PARTS, "block", *HEADS])
def test_module_equals_the_reference(name: str):
    params = random_params(build(name, np.float64)[1])
    inputs, given = inputs_and_labels()
    theirs = reference_params(name, params)

    with jax.enable_x64(True):
        ours_64 = evaluate(partial(ours, name, build(name, np.float64)[0]), params, inputs, given, np.float64)
        theirs_64 = evaluate(reference(name, CONFIG), theirs, inputs, given, np.float64)
    ours_32 = evaluate(partial(ours, name, build(name, np.float32)[0]), params, inputs, given, np.float32)

    exact, rounded = (errors(under_reference_names(name, found), theirs_64) for found in (ours_64, ours_32))
    report(name, exact, rounded)
    assert set(vanishing(theirs_64)) == VANISHING.get(name, set())
    assert not {array: error for array, error in exact.items() if error > FLOAT64_ERROR}
    coarse = {array: error for array, error in rounded.items() if error > FLOAT32_ERROR}
    if coarse:
        theirs_32 = evaluate(reference(name, CONFIG), theirs, inputs, given, np.float32)
        own = errors(theirs_32, theirs_64)
        assert not {array: error for array, error in coarse.items() if error > OF_REFERENCE * own[array]}


def build(name: str, dtype: Any) -> tuple[nnx.GraphDef, Any]:
    """The structure of our module, computing in `dtype`, and the shapes of its parameters as a nested dict."""

    def make() -> nnx.Module:
        built = {"policy": Policy(dtype=np.dtype(dtype)), "rngs": nnx.Rngs(0)}
        if name in HEADS:
            return {"masked_msa": MaskedMSAHead, "distogram": DistogramHead}[name](CONFIG, **built)
        block = EvoformerBlock(CONFIG, **built)
        return block if name == "block" else getattr(block, name)

    graphdef, shapes = nnx.split(nnx.eval_shape(make), nnx.Param)
    return graphdef, nnx.to_pure_dict(shapes)


def random_params(shapes: Any) -> Arrays:
    """Normal in float64, none of them zero, so that no gradient is; LayerNorm's scales around one."""
    rng = np.random.default_rng(1)

    def draw(path: tuple, x: jax.ShapeDtypeStruct) -> np.ndarray:
        return float(path[-1].key == "scale") + SPREAD * rng.normal(size=x.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def inputs_and_labels() -> tuple[Arrays, Arrays]:
    """Random representations, labels, and ragged masks: the fourth sequence and the third residue are padding."""
    rng = np.random.default_rng(0)
    seq_mask = np.array([1, 1, 0, 1, 1, 1, 1.0])
    msa_mask = seq_mask[None] * (rng.random((SEQUENCES, RESIDUES)) < 0.7)
    msa_mask[0], msa_mask[3] = seq_mask, 0.0
    inputs = {
        "m": rng.normal(size=(SEQUENCES, RESIDUES, CONFIG.c_m)),
        "z": rng.normal(size=(RESIDUES, RESIDUES, CONFIG.c_z)),
    }
    given = {
        "msa_mask": msa_mask,
        "pair_mask": seq_mask[:, None] * seq_mask[None],
        "true_msa": rng.integers(0, 23, (SEQUENCES, RESIDUES)),
        "bert_mask": msa_mask * (rng.random((SEQUENCES, RESIDUES)) < 0.5),
        "pseudo_beta": 8.0 * rng.normal(size=(RESIDUES, 3)),
        "pseudo_beta_mask": seq_mask,
    }
    return inputs, given


def ours(name: str, graphdef: nnx.GraphDef, params: Arrays, inputs: Arrays, given: Arrays) -> Arrays:
    """Our module's (parameters, inputs, labels and masks) -> outputs."""
    module = bind(graphdef, params)
    if name == "masked_msa":
        logits = module(inputs["m"])
        return {"logits": logits, "loss": masked_msa_loss(logits, given["true_msa"], given["bert_mask"])[0]}
    if name == "distogram":
        logits = module(inputs["z"])
        return {"logits": logits, "loss": distogram_loss(logits, given["pseudo_beta"], given["pseudo_beta_mask"])}
    if name == "block":
        return dict(zip("mz", module(inputs["m"], inputs["z"], given["msa_mask"], given["pair_mask"]), strict=True))
    return {"update": module(*((inputs | given)[argument] for argument in ARGUMENTS[name]))}


def evaluate(function: Any, params: Arrays, inputs: Arrays, given: Arrays, dtype: Any) -> tuple[Arrays, Any]:
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


def under_reference_names(name: str, found: tuple[Arrays, Any]) -> tuple[Arrays, Any]:
    outputs, (by_params, by_inputs) = found
    return outputs, (reference_params(name, by_params), by_inputs)


def vanishing(found: tuple[Arrays, Any]) -> dict[str, float]:
    """The parameters whose gradient is nothing but rounding, and the size of the largest gradient."""
    by_params, _ = found[1]
    sizes = {jax.tree_util.keystr(path): np.abs(x).max() for path, x in jax.tree.leaves_with_path(by_params)}
    largest = max(sizes.values())
    return {path: float(largest) for path, size in sizes.items() if size < ROUNDING * largest}


def errors(ours: tuple[Arrays, Any], theirs: tuple[Arrays, Any]) -> dict[str, float]:
    """The error of each output and gradient; of a vanishing gradient relative to the largest one."""
    scales = {f"[1][0]{path}": largest for path, largest in vanishing(theirs).items()}

    def error(path: str, a: np.ndarray, b: np.ndarray) -> float:
        assert a.shape == b.shape
        scale = scales.get(path, np.abs(b).max())
        # An input that a module does not use has gradient 0 on both sides.
        return float(np.abs(a - b).max() / scale) if scale or a.any() else 0.0

    pairs = zip(jax.tree.leaves_with_path(ours), jax.tree.leaves_with_path(theirs), strict=True)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    return {jax.tree_util.keystr(path): error(jax.tree_util.keystr(path), a, b) for (path, a), (_, b) in pairs}


def report(name: str, exact: dict[str, float], rounded: dict[str, float]) -> None:
    """One line of the table: the largest error of outputs and of gradients, in float64 and in float32."""
    largest = [
        max(found[k] for k in found if k.startswith(part)) for found in (exact, rounded) for part in ("[0]", "[1]")
    ]
    print("{:20s} float64 fwd {:.1e} bwd {:.1e}, float32 fwd {:.1e} bwd {:.1e}".format(name, *largest))
