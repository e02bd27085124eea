"""Which way to put a run on its devices is the cheapest that fits, by the analytic model."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from evotrain.config import Config
from evotrain.plan.estimate import timed, times
from evotrain.plan.footprint import example_bytes, memory_of
from evotrain.plan.program import an_example
from evotrain.plan.result import GIB, Candidate, Layout
from evotrain.plan.workload import work_of

# What is computed again in the backward pass, the least first.
REMATS = ("none", "gathered", "block")
# The share of a device's memory that a layout may take by the model, which knows it to a tenth.
SAFE = 0.9
# Steps whose times differ by a smaller share count as equally fast; the model knows them far less well.
NEAR = 0.02


def candidates(config: Config, devices: int) -> list[Candidate]:
    """Every layout of the run on `devices`: those that fit first, the fastest first, then those that need least."""
    example = an_example(config)

    @cache
    def size_of_example(context: int) -> float:
        return example_bytes(example, context)

    def judged(layout: Layout) -> Candidate:
        placed = place(config, layout)
        memory = memory_of(placed, size_of_example(layout.context)).total
        limits = times(timed(work_of(placed), placed.mesh, placed.target), placed.target)
        fits = memory <= SAFE * config.target.memory_gib * GIB
        return Candidate(layout=layout, memory=memory, step=limits.step, network=limits.network, fits=fits)

    found = [judged(layout) for layout in layouts(config.batch_size, devices)]
    return sorted(found, key=lambda one: (not one.fits, one.step if one.fits else one.memory, one.memory))


def best_layout(found: list[Candidate]) -> Candidate | None:
    """The fastest one that fits.

    Of those that are as fast, within NEAR, it is the one with the smallest micro-batches, whose arrays are the
    likeliest to stay in the processor's own memory, and of these the one that sends the least.
    """
    fitting = [one for one in found if one.fits]
    fastest = min((one.step for one in fitting), default=0.0)
    alike = (one for one in fitting if one.step <= (1 + NEAR) * fastest)
    return min(alike, key=lambda one: (one.layout.microbatch, one.network, one.memory), default=None)


def layouts(batch_size: int, devices: int) -> Iterator[Layout]:
    """Every mesh of `devices` that can split the batch, with every way to run a device's part of it."""
    for context in _divisors(devices):
        for fsdp in _divisors(devices // context):
            data = devices // (context * fsdp)
            if batch_size % (data * fsdp):
                continue
            for remat in REMATS:
                if remat == "gathered" and context == 1:  # nothing is gathered
                    continue
                # Of several examples that are shared the compiler sums gradients where it could scatter them.
                for microbatch in _divisors(batch_size // (data * fsdp)) if context == 1 else (1,):
                    yield Layout(data=data, fsdp=fsdp, context=context, remat=remat, microbatch=microbatch)


def place(config: Config, layout: Layout) -> Config:
    """The configuration with this layout."""
    return replace(config, mesh=replace(config.mesh, **vars(layout)))


def layout_of(config: Config) -> Layout:
    """The layout of a resolved configuration."""
    mesh = config.mesh
    return Layout(data=mesh.data, fsdp=mesh.fsdp, context=mesh.context, remat=mesh.remat, microbatch=mesh.microbatch)


def least_remat(config: Config, memory: float) -> str:
    """The least recomputation with which a step fits into `memory` bytes; `config.mesh` is otherwise resolved."""
    for remat in REMATS[:-1]:
        placed = replace(config, mesh=replace(config.mesh, remat=remat))
        if (remat != "gathered" or config.mesh.context > 1) and memory_of(placed).total <= SAFE * memory:
            return remat
    return REMATS[-1]


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
