"""The operations that the formulas find are those of the traced step."""

from dataclasses import replace

import jax
import pytest
from jax.sharding import AxisType

from evotrain.compose import compose
from evotrain.config import MeshConfig
from evotrain.flops import count_flops
from evotrain.model import rows
from evotrain.parallel.mesh import ALL_AXES
from evotrain.plan.operations import step_flops
from evotrain.plan.program import traced_step

WHOLE = [
    "+experiment=af2_initial", "data.root=unread", "model.blocks=2", "model.extra_msa.blocks=2", "data.crop=64",
    "data.msa_clusters=32", "data.extra_msa=64", "data.templates=4", "batch_size=4",
]  # fmt: skip


TRUNK = ["model.structure.layers=0", "model.template.blocks=0", "data.templates=0", "checkpoint.best=loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("context", "remat", "overrides"),
    [
        pytest.param(1, "none", ["optimizer.clip=global", "mesh.microbatch=2"], marks=pytest.mark.nightly),
        (4, "gathered", ["data.crop=62", "model.structure.aligned_error=true", "model.loss.aligned_error=0.1"]),
        pytest.param(1, "block", TRUNK, marks=pytest.mark.nightly),
        (4, "gathered", [*TRUNK, "kernels=xla"]),
    ],
)
def test_the_formulas_count_what_the_traced_step_does(
    context: int, remat: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rows, "_on_cpu", lambda: False)  # where rows are computed in other chunks
    config = compose([*WHOLE, *overrides])
    config = replace(config, mesh=replace(config.mesh, data=1, context=context, remat=remat))
    mesh = jax.make_mesh((1, 1, context), ALL_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:context])
    counted = count_flops(traced_step(config, mesh).jaxpr, open_trips=config.model.recycles / 2)
    found = step_flops(config)
    print(
        f"context {context}, {remat}: {found / 1e9:.3f} GFLOP, counted {counted / 1e9:.3f}: {found / counted - 1:+.2%}"
    )
    assert found == pytest.approx(counted, rel=0.02)


def test_devices_share_the_batch_and_the_example():
    config = compose([*WHOLE, "model.structure.layers=0", "checkpoint.best=loss"])

    def of(data: int, parts: int, context: int) -> float:
        return step_flops(replace(config, mesh=MeshConfig(data=data, fsdp=parts, context=context, remat="block")))

    assert of(2, 1, 1) == of(1, 2, 1) == of(1, 1, 1) / 2
    assert of(1, 1, 4) == pytest.approx(of(1, 1, 1) / 4, rel=0.02)
