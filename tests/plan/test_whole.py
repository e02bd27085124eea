"""All of AlphaFold 2's training step, compiled for TPUs: what plans say of it, and how its memory falls with context.

Each compilation takes one to four minutes. Run them with `-s` to see the figures.
"""

import time
from dataclasses import replace
from functools import cache

import pytest

from evotrain.checks import resolve_mesh
from evotrain.compose import compose
from evotrain.config import Config
from evotrain.plan.command import compiled
from evotrain.plan.footprint import memory_of
from evotrain.plan.operations import step_flops
from evotrain.plan.result import GIB, Memory, Work

pytestmark = [pytest.mark.nightly, pytest.mark.usefixtures("tpu_compiler")]

FINE_TUNING = "+experiment=af2_finetune"
INITIAL = "+experiment=af2_initial"
SHARED = {1: "target=v5e_1", 2: "target=v5e_4", 4: "target=v5e_4", 8: "target=v5e_8"}


@cache
def whole_step(*overrides: str) -> tuple[Config, Memory, Work]:
    """A step as the compiler lays it out."""
    config = compose([*overrides, "data.root=unread", "mesh.remat=block"])
    config = replace(config, mesh=resolve_mesh(config.mesh, config.target.chips))
    begun = time.perf_counter()
    memory, work = compiled(config)
    print(f"\n{' '.join(overrides)}: compiled in {time.perf_counter() - begun:.0f} s")
    return config, memory, work


@pytest.mark.parametrize(
    "overrides",
    [
        (INITIAL, "target=v5p_128"),
        (INITIAL, "target=v5p_512", "mesh.context=4"),
        (FINE_TUNING, "target=v5e_128"),
        (INITIAL, "target=v5p_1", "batch_size=1"),
        (INITIAL, "target=v5p_128", "mesh.context=8", "mesh.fsdp=8"),
    ],
    ids=" ".join,
)
def test_it_fits_and_the_formulas_are_near(overrides: tuple[str, ...]):
    config, memory, work = whole_step(*overrides)
    expected, flops = memory_of(config).total, step_flops(config)
    print(
        f"{memory.total / GIB:.2f} of {config.target.memory_gib} GiB, by formula {expected / memory.total - 1:+.1%}; "
        f"{work.flops / 1e12:.1f} TFLOP, by formula {flops / work.flops - 1:+.3%}"
    )
    assert memory.total < config.target.memory_gib * GIB
    assert expected == pytest.approx(memory.total, rel=0.10)
    assert flops == pytest.approx(work.flops, rel=0.02)


@pytest.mark.parametrize("experiment", [INITIAL, FINE_TUNING])
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_activations_fall_with_context(experiment: str, devices: int):
    def activations(shared_by: int) -> float:
        target = SHARED[shared_by]
        groups = 4 // shared_by if target == "target=v5e_4" else 1
        _, memory, _ = whole_step(experiment, target, f"mesh.context={shared_by}", f"batch_size={groups}")
        print(f"{shared_by} devices: {memory.activations / 2**20:.0f} MiB, {memory.gaps / 2**20:.0f} MiB of gaps")
        return memory.activations

    ratio = activations(1) / activations(devices)
    print(f"{experiment}, {devices} devices: ÷ {ratio:.2f}")
    assert ratio >= 0.9 * devices
