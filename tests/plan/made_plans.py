"""Plans that nobody has computed, with numbers of a size that real ones have."""

from dataclasses import replace

from evotrain.plan.result import GIB, Candidate, Collective, Layout, Memory, Plan, Times, Work

CONTEXT, DATA, ALL = ("context",), ("data",), ("data", "fsdp", "context")


def one(kind: str, axes: tuple[str, ...], purpose: str, count: float, megabytes: float, rate: float) -> Collective:
    return Collective(
        kind=kind, axes=axes, purpose=purpose, count=count, bytes=1e6 * megabytes, seconds=1e6 * megabytes / rate
    )


def memory(**gibibytes: float) -> Memory:
    return Memory(**{name: GIB * size for name, size in gibibytes.items()})


# AlphaFold 2, initial training, an example on each chip: it fits by far, and compute binds.
PLENTY = Plan(
    experiment="af2_initial",
    model="48 blocks of 256/128 channels, 93.2 million parameters, crop 256 × 128, bfloat16",
    target="128 TPU v5p chips",
    chips=128,
    devices=128,
    layout=Layout(data=128, fsdp=1, context=1, remat="block", microbatch=1),
    batch_size=128,
    steps=80_000,
    recycles=1.5,
    device_memory=95 * GIB,
    peak_flops=459e12,
    memory=memory(
        parameters=0.347, optimizer=0.695, average=0.347, batch=0.011, gradients=0.61, kept=2.31, working=4.62
    ),
    work=Work(
        flops=71.8e12,
        memory_bytes=201e9,
        collectives=(one("all-reduce", DATA, "gradients", 1, 740.0, 200e9),),
    ),
    times=Times(compute=71.8 / 459, memory=201 / 2765, network=0.0037),
    usd_per_chip_hour=4.20,
    method="compiled",
    compile_seconds=75.2,
    topology="v5p:4x4x8",
)

# Its fine-tuning on small chips with a context of 2: 17 GiB too much.
TOO_MUCH = replace(
    PLENTY,
    experiment="af2_finetune",
    model="48 blocks of 256/128 channels, 93.2 million parameters, crop 384 × 512, bfloat16",
    target="16 TPU v5e chips",
    chips=16,
    devices=16,
    layout=Layout(data=1, fsdp=8, context=2, remat="gathered", microbatch=1),
    steps=12_000,
    device_memory=15.75 * GIB,
    peak_flops=197e12,
    memory=memory(
        parameters=0.043, optimizer=0.087, average=0.043, batch=0.092, gradients=0.41, kept=17.9, working=14.22
    ),
    work=Work(
        flops=2840e12,
        memory_bytes=9120e9,
        collectives=(
            one("all-gather", CONTEXT, "activations", 1248, 37.7, 100e9),
            one("all-gather", CONTEXT, "activations", 624, 12.58, 100e9),
            one("reduce-scatter", CONTEXT, "activations", 1872, 18.9, 100e9),
            one("all-to-all", CONTEXT, "activations", 3744, 25.2, 100e9),
            one("all-reduce", CONTEXT, "activations", 416, 0.3, 100e9),
            one("all-gather", ("fsdp",), "parameters", 832, 6.6, 100e9),
            one("reduce-scatter", ("fsdp",), "gradients", 416, 6.6, 100e9),
            one("all-reduce", ALL, "gradients", 4, 0.02, 100e9),
        ),
    ),
    times=Times(compute=14.42, memory=11.14, network=2.5),
    usd_per_chip_hour=1.20,
    topology="v5e:4x4",
    compile_seconds=412.0,
    advice=(
        "mesh.context=8 mesh.fsdp=2 needs 9.31 GiB and 15.0 s a step",
        "mesh.remat=block keeps 6.2 GiB less",
    ),
)


def candidate(mesh: tuple[int, int, int], remat: str, gibibytes: float, step: float) -> Candidate:
    data, fsdp, context = mesh
    layout = Layout(data=data, fsdp=fsdp, context=context, remat=remat, microbatch=1)
    return Candidate(layout=layout, memory=GIB * gibibytes, step=step, network=1.0, fits=gibibytes <= 15.75)


# The same by search.
SEARCHED = replace(
    TOO_MUCH,
    layout=Layout(data=1, fsdp=2, context=8, remat="block", microbatch=1),
    memory=memory(
        parameters=0.174, optimizer=0.347, average=0.174, batch=0.092, gradients=0.52, kept=1.61, working=5.83
    ),
    method="analytic",
    topology=None,
    compile_seconds=None,
    advice=(),
    candidates=(
        candidate((1, 2, 8), "block", 8.746, 14.42),
        candidate((2, 1, 8), "block", 9.79, 14.44),
        candidate((1, 1, 16), "gathered", 7.4, 15.9),
        candidate((1, 1, 16), "block", 5.1, 17.2),
        candidate((4, 1, 4), "block", 16.9, 14.4),
        candidate((1, 8, 2), "gathered", 32.795, 14.42),
        candidate((1, 16, 1), "none", 411.0, 11.9),
    ),
)

# A laptop's model on a chip of unknown price: nothing to send.
ALONE = replace(
    PLENTY,
    experiment="quickstart",
    model="2 blocks of 32/16 channels, 78 thousand parameters, crop 32 × 16, float32",
    target="1 TPU v5e chip",
    chips=1,
    devices=1,
    layout=Layout(data=1, fsdp=1, context=1, remat="none", microbatch=4),
    batch_size=4,
    steps=400,
    recycles=0.0,
    device_memory=15.75 * GIB,
    peak_flops=197e12,
    memory=memory(
        parameters=0.0003, optimizer=0.0006, average=0.0003, batch=0.0001, gradients=0.0003, kept=0.004, working=0.003
    ),
    work=Work(flops=0.012e12, memory_bytes=0.11e9, collectives=()),
    times=Times(compute=0.012 / 197, memory=0.11 / 819, network=0.0),
    usd_per_chip_hour=None,
    method="analytic",
    topology=None,
    compile_seconds=None,
)
