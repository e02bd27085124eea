"""Times at peak rates, and which links a collective goes over."""

import pytest

from evotrain.config import MeshConfig, TargetConfig
from evotrain.plan.estimate import bandwidth, timed, times
from evotrain.plan.result import Collective, Work

TARGET = TargetConfig(
    chips=32,
    peak_tflops=100.0,
    memory_gib=80.0,
    memory_gbps=1000.0,
    link_gbps=200.0,
    network_gbps=20.0,
    linked_devices=8,
)
MESH = MeshConfig(data=2, fsdp=4, context=4)


def collective(*axes: str) -> Collective:
    return Collective(kind="all-gather", axes=axes, count=3, bytes=1e9, purpose="activations")


@pytest.mark.parametrize(
    ("axes", "rate"),
    [
        (("context",), 200e9),
        (("fsdp",), 20e9),  # 4 × 4 devices from the first to the last
        (("data",), 20e9),
        (("data", "context"), 20e9),
    ],
)
def test_inner_axes_go_over_fast_links(axes: tuple[str, ...], rate: float):
    assert bandwidth(collective(*axes), MESH, TARGET) == rate


def test_a_step_takes_as_long_as_its_slowest_resource():
    work = Work(flops=1e12, memory_bytes=5e9, collectives=(collective("context"), collective("data")))
    found = times(timed(work, MESH, TARGET), TARGET)
    assert (found.compute, found.memory) == (0.01, 0.005)
    assert found.network == pytest.approx(3 * (1 / 200 + 1 / 20))
    assert found.bound == "network"
    assert found.step == found.network
