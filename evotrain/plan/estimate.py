"""How long a step takes at least, from what it does and what the target can do."""

from dataclasses import replace

from evotrain.config import MeshConfig, TargetConfig
from evotrain.parallel.mesh import ALL_AXES
from evotrain.plan.result import Collective, Times, Work

GIGA, TERA = 1e9, 1e12


def timed(work: Work, mesh: MeshConfig, target: TargetConfig) -> Work:
    """The work with the seconds that each collective takes at the peak rate of its links."""
    collectives = (replace(one, seconds=one.bytes / bandwidth(one, mesh, target)) for one in work.collectives)
    return replace(work, collectives=tuple(collectives))


def times(work: Work, target: TargetConfig) -> Times:
    """The seconds that each resource needs, at its peak rate, for what one device does in one step, its collectives
    timed."""
    return Times(
        compute=work.flops / (target.peak_tflops * TERA),
        memory=work.memory_bytes / (target.memory_gbps * GIGA),
        network=sum(collective.step_seconds for collective in work.collectives),
    )


def bandwidth(collective: Collective, mesh: MeshConfig, target: TargetConfig) -> float:
    """Bytes per second that a device receives in a collective: by fast links if those connect all that take part."""
    outermost = min(ALL_AXES.index(axis) for axis in collective.axes)
    span = 1  # devices from the first to the last that take part: inner axes connect neighbours
    for axis in ALL_AXES[outermost:]:
        span *= getattr(mesh, axis)
    linked = target.linked_devices is None or span <= target.linked_devices
    return (target.link_gbps if linked else target.network_gbps) * GIGA
