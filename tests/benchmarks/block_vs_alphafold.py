"""Times evotrain's Evoformer block against DeepMind's on this CPU, and prints ratios, temporary memory and FLOPs.

Both have the published channels, the same float32 parameters and the same inputs, and no dropout. Both are compiled
alone and run in turns, and the fastest of their runs count. Run with `python tests/benchmarks/block_vs_alphafold.py`;
numbers such as `64x128 5` choose the sizes (sequences x residues) and the runs. Other programs slow both down, and the
one that needs more memory more.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = map(str, (TESTS.parent, TESTS, TESTS / "model"))

import jax
import numpy as np
from flax import nnx
from haiku_reference import reference
from parity import Arrays, Program, random_params, reference_params

from evotrain.config import ModelConfig
from evotrain.flops import count_flops
from evotrain.model.evoformer import EvoformerBlock
from evotrain.model.layers import Policy
from evotrain.model.network import bind

SIZES, RUNS = ("64x128", "128x256"), 5
CONFIG = ModelConfig(blocks=1, c_m=256, c_z=128, msa_heads=8, pair_heads=4, c_triangle=128)
SPREAD = 0.05  # of the parameters: near that of trained weights at these widths
FORWARD, BACKWARD = "forward", "forward + backward"
LARGEST_DIFFERENCE = 1e-4  # of the outputs, relative to the largest


@dataclass
class Compiled:
    """A program that was compiled for its arguments."""

    run: Callable[[], Any]
    temporaries: int  # bytes
    flops: float
    seconds: float = float("inf")  # of the fastest run so far

    @classmethod
    def of(cls, function: Callable, *arguments: Any) -> "Compiled":
        compiled = jax.jit(function).lower(*arguments).compile()
        flops = count_flops(jax.make_jaxpr(function)(*arguments))
        return cls(lambda: compiled(*arguments), compiled.memory_analysis().temp_size_in_bytes, flops)

    def time(self) -> None:
        start = time.perf_counter()
        jax.block_until_ready(self.run())
        self.seconds = min(self.seconds, time.perf_counter() - start)


def our_block() -> tuple[Program, Arrays]:
    """evotrain's block as a function, and random parameters."""
    shapes = nnx.eval_shape(lambda: EvoformerBlock(CONFIG, policy=Policy(), rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(shapes, nnx.Param)

    def block(params: Arrays, inputs: Arrays, given: Arrays) -> Arrays:
        m, z = bind(graphdef, params)(inputs["m"], inputs["z"], given["msa_mask"], given["pair_mask"])
        return {"m": m, "z": z}

    return block, as_float32(random_params(nnx.to_pure_dict(params), SPREAD))


def example(sequences: int, residues: int) -> tuple[Arrays, Arrays]:
    """Random representations, and masks of a protein that is a little shorter than the crop, with gaps in its MSA."""
    rng = np.random.default_rng(0)
    seq_mask = np.arange(residues) < 0.95 * residues
    msa_mask = seq_mask[None] & ((rng.random((sequences, residues)) < 0.9) | (np.arange(sequences) == 0)[:, None])
    inputs = {
        "m": rng.normal(size=(sequences, residues, CONFIG.c_m)),
        "z": rng.normal(size=(residues, residues, CONFIG.c_z)),
    }
    return as_float32(inputs), as_float32({"msa_mask": msa_mask, "pair_mask": seq_mask[:, None] & seq_mask[None]})


def as_float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.numpy.asarray(x, "float32"), tree)


def gradient(block: Program, given: Arrays) -> Callable[[Arrays, Arrays], Any]:
    """(parameters, inputs) -> outputs, and gradients of half the sum of their squares."""

    def run(params: Arrays, inputs: Arrays) -> Any:
        outputs, pull_back = jax.vjp(lambda params, inputs: block(params, inputs, given), params, inputs)
        return outputs, pull_back(outputs)

    return run


def compare(sequences: int, residues: int, runs: int) -> None:
    inputs, given = example(sequences, residues)
    block, params = our_block()
    theirs = reference("block", CONFIG)
    renamed = reference_params(params, ours="evoformer/blocks", theirs="evoformer")
    programs = {
        FORWARD: (
            Compiled.of(lambda *args: block(*args, given), params, inputs),
            Compiled.of(lambda *args: theirs(*args, given), renamed, inputs),
        ),
        BACKWARD: (
            Compiled.of(gradient(block, given), params, inputs),
            Compiled.of(gradient(theirs, given), renamed, inputs),
        ),
    }
    difference = largest_difference(*(program.run() for program in programs[FORWARD]))
    assert difference < LARGEST_DIFFERENCE, f"the outputs differ by {difference:.1e}"
    for pair in programs.values():
        for _ in range(1 + runs):  # the first warms up
            for program in pair:
                program.time()
    print(f"{sequences} sequences of {residues} residues, outputs equal to {difference:.0e}")
    for name, pair in programs.items():
        report(name, *pair)


def largest_difference(ours: Arrays, theirs: Arrays) -> float:
    return max(float(abs(ours[name] - theirs[name]).max() / abs(theirs[name]).max()) for name in theirs)


def report(name: str, ours: Compiled, theirs: Compiled) -> None:
    times = f"{ours.seconds:6.2f} s, DeepMind {theirs.seconds:6.2f} s: {theirs.seconds / ours.seconds:.2f} x as fast"
    mib = [program.temporaries / 2**20 for program in (ours, theirs)]
    memory = f"temporaries {mib[0]:5.0f} and {mib[1]:5.0f} MiB ({mib[0] / mib[1]:.2f} x)"
    flops = f"{ours.flops / 1e9:.0f} and {theirs.flops / 1e9:.0f} GFLOP ({ours.flops / theirs.flops:.2f} x)"
    print(f"  {name:18s} evotrain {times}; {memory}; {flops}", flush=True)


if __name__ == "__main__":
    sizes = [word for word in sys.argv[1:] if "x" in word] or SIZES
    runs = [int(word) for word in sys.argv[1:] if "x" not in word] or [RUNS]
    for size in sizes:
        compare(*map(int, size.split("x")), runs[0])
