"""Which way to put a run on its devices is the cheapest that fits, by the analytic model."""

from collections.abc import Iterator
from dataclasses import replace

from evotrain.config import Config
from evotrain.plan.estimate import timed, times
from evotrain.plan.footprint import memory_of
from evotrain.plan.program import an_example
from evotrain.plan.result import GIB, Candidate, Layout
from evotrain.plan.workload import work_of

# What is computed again in the backward pass, the least first.
REMATS = ("none", "gathered", "block")
# The share of a device's memory that a layout may take by the model, which knows it to a tenth.
SAFE = 0.9


def candidates(config: Config, devices: int) -> list[Candidate]:
    """Every layout of the run on `devices`: those that fit first, the fastest first, then those that need least."""
    example = an_example(config)

    def judged(layout: Layout) -> Candidate:
        placed = place(config, layout)
        memory = memory_of(placed, example).total
        step = times(timed(work_of(placed), placed.mesh, placed.target), placed.target).step
        return Candidate(layout=layout, memory=memory, step=step, fits=memory <= SAFE * config.target.memory_gib * GIB)

    found = [judged(layout) for layout in layouts(config.batch_size, devices)]
    return sorted(found, key=lambda one: (not one.fits, one.step if one.fits else one.memory, one.memory))


def best_layout(found: list[Candidate]) -> Candidate | None:
    """The fastest one that fits."""
    return next((one for one in found if one.fits), None)


def layouts(batch_size: int, devices: int) -> Iterator[Layout]:
    """Every mesh of `devices` that can split the batch, with every way to run a device's part of it."""
    for context in _divisors(devices):
        for fsdp in _divisors(devices // context):
            data = devices // (context * fsdp)
            if batch_size % (data * fsdp):
                continue
            for remat in REMATS:
                if remat != "gathered" or context > 1:  # else nothing is gathered
                    # More examples at a time need more memory, and one fills an accelerator.
                    yield Layout(data=data, fsdp=fsdp, context=context, remat=remat, microbatch=1)


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
