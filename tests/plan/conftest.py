"""Steps of the trunk, compiled for TPUs once for all tests, two at a time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple

import pytest

from evotrain.checks import resolve_mesh
from evotrain.compose import compose
from evotrain.config import Config
from evotrain.plan.command import compiled
from evotrain.plan.result import Memory, Work

# Two blocks are the fewest that stay a loop. Sizes are those of AlphaFold 2. (On a v5p slice of 2 × 2 × 2 chips the
# compiler makes all-reduces of reduce-scatters, on rings and planes of larger ones it does not.)
TRUNK = [
    "+experiment=af2_initial", "data.root=unread", "checkpoint.best=loss", "model.blocks=2", "model.recycles=0",
    "model.extra_msa.blocks=0", "model.template.blocks=0", "model.structure.layers=0", "data.extra_msa=0",
    "data.templates=0", "data.msa_clusters=128", "batch_size=1", "mesh.data=1",
]  # fmt: skip
STEPS = {
    "v5e context 8": ["target=v5e_8", "mesh.context=8"],
    "v5p context 8": ["target=v5p_128", "mesh.context=8", "mesh.data=16", "batch_size=16"],
    "v6e alone": ["target=v6e_1"],
    "v5e context 8 gathered": ["target=v5e_8", "mesh.context=8", "mesh.remat=gathered"],
    "v5p context 8 gathered": [
        *("target=v5p_128", "mesh.context=8", "mesh.data=16", "batch_size=16", "mesh.remat=gathered"),
    ],
    "v5e context 4 none": ["target=v5e_4", "mesh.context=4", "mesh.remat=none"],
    "v5e context 8 none": ["target=v5e_8", "mesh.context=8", "mesh.remat=none"],
    "v5p context 16 none": ["target=v5p_128", "mesh.context=16", "mesh.data=8", "batch_size=8", "mesh.remat=none"],
    "v6e fine-tuning context 4": ["target=v6e_4", "mesh.context=4", "data.crop=384", "data.msa_clusters=512"],
    "v5p fine-tuning alone": ["target=v5p_1", "data.crop=384", "data.msa_clusters=512"],
    "v5e small alone": ["target=v5e_1", "data.crop=128", "data.msa_clusters=64"],
    "v5e small two at a time": [
        *("target=v5e_1", "data.crop=128", "data.msa_clusters=64", "mesh.microbatch=2", "batch_size=2"),
    ],
    "v5e small context 4": [
        *("target=v5e_8", "data.crop=128", "data.msa_clusters=64", "mesh.data=2", "mesh.context=4", "batch_size=8"),
    ],
    "v5e fsdp 8": ["target=v5e_8", "mesh.data=1", "mesh.fsdp=8", "batch_size=16", "optimizer.clip=global"],
}


NIGHTLY = ("v5e context 8 none", "v5p context 16 none", "v5p context 8 gathered")


class Step(NamedTuple):
    config: Config
    memory: Memory
    work: Work


@pytest.fixture(scope="session")
def tpu_compiler() -> None:
    """Skips where libtpu is missing."""
    if find_spec("libtpu") is None:
        pytest.skip("libtpu, the TPU compiler, is not installed: pip install 'evotrain[tpu]'")


@pytest.fixture(scope="session")
def step(tpu_compiler) -> Callable[[str], Step]:
    """The compiled step of a name in STEPS."""
    pool = ThreadPoolExecutor(2)
    configs = {name: resolved(overrides) for name, overrides in STEPS.items()}
    steps = {name: pool.submit(compiled, config) for name, config in configs.items() if name not in NIGHTLY}

    def step(name: str) -> Step:
        if name not in steps:
            steps[name] = pool.submit(compiled, configs[name])
        return Step(configs[name], *steps[name].result())

    return step


def resolved(overrides: list[str]) -> Config:
    config = compose([*TRUNK, *overrides])
    mesh = resolve_mesh(config.mesh, config.target.chips)
    return replace(config, mesh=replace(mesh, remat="block" if mesh.remat == "auto" else mesh.remat))
