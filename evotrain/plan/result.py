"""What a plan says: memory, work and time of one training step on one device, and what the run comes to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device at the step's peak, by what they hold."""

    parameters: float
    optimizer: float  # Adam's moments
    average: float  # EMA
    batch: float
    gradients: float  # and copies of weights in the dtype of the computation
    kept: float  # by each block for the backward pass
    working: float  # everything else that lives for a while
    gaps: float = 0.0  # between arrays, and tables of what the program hands on; by formula they are in `working`

    @property
    def total(self) -> float:
        return sum(getattr(self, item.name) for item in fields(self))

    @property
    def activations(self) -> float:
        """What is neither an argument of the step nor of the size of parameters, without gaps."""
        return self.kept + self.working


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective operation, as often as a step runs it."""

    kind: str  # all-gather, reduce-scatter, all-reduce, all-to-all or collective-permute
    axes: tuple[str, ...]  # of the mesh, whose devices it connects
    count: float  # executions in a step
    bytes: float  # that one device receives in one execution
    purpose: str  # "activations", "parameters" or "gradients"
    seconds: float | None = None  # of one execution at the peak rate of its links; None: not known
    source: str | None = None  # the function that asks for it, and where

    @property
    def step_bytes(self) -> float:
        return self.count * self.bytes

    @property
    def step_seconds(self) -> float | None:
        return None if self.seconds is None else self.count * self.seconds


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one device does in one step, with the mean number of recycles."""

    flops: float
    memory_bytes: float  # read from and written to the device's memory
    collectives: tuple[Collective, ...]

    def merged(self) -> list[Collective]:
        """One collective for all of a purpose, kind and axes: of their mean size, those that move most bytes first."""
        alike: dict[tuple, list[Collective]] = {}
        for one in self.collectives:
            alike.setdefault((one.purpose, one.kind, one.axes), []).append(one)
        merged = [_mean(group) for group in alike.values()]
        return sorted((one for one in merged if one.count), key=lambda one: -one.step_bytes)


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of one step if one resource were the only limit."""

    compute: float
    memory: float
    network: float

    @property
    def step(self) -> float:
        """The largest of them: no step is faster, and one with everything overlapped is as fast."""
        return max(self.compute, self.memory, self.network)

    @property
    def bound(self) -> str:
        """Which of them that is."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to put the experiment on the devices."""

    data: int
    fsdp: int
    context: int
    remat: str
    microbatch: int

    def overrides(self) -> str:
        """The keys that select it."""
        return " ".join(f"mesh.{name}={value}" for name, value in asdict(self).items())


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the analytic model says of a layout that the search has looked at."""

    layout: Layout
    memory: float  # bytes of one device
    step: float  # seconds
    network: float  # seconds that its collectives take by themselves
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `command=plan` prints, draws and writes as plan.json."""

    experiment: str  # its name
    model: str  # one line: sizes and precision
    target: str  # one line: chips and their kind
    chips: int
    devices: int
    layout: Layout
    batch_size: int
    steps: int
    recycles: float  # the mean number in a step
    device_memory: float  # bytes
    peak_flops: float  # of one device, per second
    memory: Memory
    work: Work
    times: Times
    usd_per_chip_hour: float | None
    method: str  # "compiled" or "analytic"
    compile_seconds: float | None = None
    topology: str | None = None  # libtpu's name of what it was compiled for
    advice: tuple[str, ...] = ()  # what to change where it does not fit
    candidates: tuple[Candidate, ...] = ()  # of the search: those that fit, the fastest first, then the others

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.device_memory

    @property
    def utilisation(self) -> float:
        """The share of the peak that is reached if nothing else but the largest limit counts."""
        return self.times.compute / self.times.step

    @property
    def days(self) -> float:
        return self.days_at(self.times.step)

    @property
    def dollars(self) -> float | None:
        return self.dollars_at(self.times.step)

    def days_at(self, step: float) -> float:
        """Of the run, if a step takes so many seconds."""
        return self.steps * step / 86400

    def dollars_at(self, step: float) -> float | None:
        """Of the run, if a step takes so many seconds; None without a price."""
        price = self.usd_per_chip_hour
        return None if price is None else self.days_at(step) * 24 * self.chips * price

    def to_json(self) -> dict[str, Any]:
        """Everything, with what follows from it, for plan.json."""
        derived = {
            "examples": self.steps * self.batch_size,
            "fits": self.fits,
            "memory_total": self.memory.total,
            "step_seconds": self.times.step,
            "bound": self.times.bound,
            "utilisation": self.utilisation,
            "days": self.days,
            "dollars": self.dollars,
        }
        return asdict(self) | derived


def _mean(alike: Sequence[Collective]) -> Collective:
    """One collective that moves as much as all of these, as often as they do together."""
    count = sum(one.count for one in alike)
    seconds = [one.step_seconds for one in alike]
    return replace(
        alike[0],
        count=count,
        bytes=sum(one.step_bytes for one in alike) / count if count else 0.0,
        seconds=sum(seconds) / count if count and None not in seconds else None,
        source=alike[0].source if len(alike) == 1 else None,
    )
