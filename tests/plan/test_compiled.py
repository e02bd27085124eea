"""What the TPU compiler makes of the training step: collectives as theory has them, memory as the formulas have it.

No TPU is needed. The steps are those of `conftest.STEPS`, each compiled once.
"""

from collections.abc import Callable

import pytest

from evotrain.plan.footprint import memory_of
from evotrain.plan.operations import step_flops
from evotrain.plan.result import Collective
from evotrain.plan.workload import work_of

pytestmark = pytest.mark.slow

BLOCKS = 2
SEQUENCES, RESIDUES, C_M, C_Z, C_OUTER, MSA_HEADS, PAIR_HEADS = 128, 256, 256, 128, 32, 8, 4
BFLOAT16 = 2


def gathered(n: int) -> float:
    """Bytes of operands that a device receives in one pass of a block: pair biases, outer product mean, triangles."""
    biases = RESIDUES**2 * (MSA_HEADS + 2 * PAIR_HEADS)
    elements = biases + C_OUTER * SEQUENCES * RESIDUES + 2 * RESIDUES**2 * C_Z
    return BFLOAT16 * elements * (n - 1) / n


def switched(n: int) -> float:
    """Bytes that a device receives in one pass of a block where rows become columns and columns rows."""
    return BFLOAT16 * (2 * SEQUENCES * RESIDUES * C_M + 4 * RESIDUES**2 * C_Z) * (n - 1) / n**2


def of_a_block(collectives: tuple[Collective, ...]) -> list[Collective]:
    """What the stack's loops send for one block: they run once for each."""
    return [one for one in collectives if one.purpose == "activations" and one.count == BLOCKS]


def total(collectives: list[Collective], *kinds: str) -> float:
    return sum(one.bytes for one in collectives if one.kind in kinds)


@pytest.mark.parametrize(
    ("name", "n", "passes", "times_theory"),
    [
        ("v5e context 4 none", 4, 1, 1.1),
        pytest.param("v5e context 8 none", 8, 1, 1.1, marks=pytest.mark.nightly),
        pytest.param("v5p context 16 none", 16, 1, 1.1, marks=pytest.mark.nightly),
        ("v5e context 8", 8, 2, 1.65),
        ("v5p context 8", 8, 2, 1.65),
        ("v5e context 8 gathered", 8, 1, 1.1),
        pytest.param("v5p context 8 gathered", 8, 1, 1.1, marks=pytest.mark.nightly),
    ],
)
def test_a_block_sends_what_theory_says(step: Callable, name: str, n: int, passes: int, times_theory: float):
    found = of_a_block(step(name).work.collectives)
    # Forward as often as a block is computed, and backward once: gathering becomes reducing and scattering.
    theory = 2 * (gathered(n) + switched(n))
    sent = sum(one.bytes for one in found)
    print(f"{name}: {sent / 1e6:.1f} MB for each block, {sent / theory:.2f} × theory's {theory / 1e6:.1f}")
    assert sent <= times_theory * theory

    assert {one.axes for one in found} == {("context",)}
    gathers = [one for one in found if one.kind == "all-gather"]
    assert len(gathers) == 6 * passes
    assert total(gathers, "all-gather") == pytest.approx(passes * gathered(n), rel=0.01)
    # Switches are as many forward as backward; the compiler may leave out one whose result another has.
    assert 12 - 1 <= sum(one.kind == "all-to-all" for one in found) <= 6 * (passes + 1)
    # Each gradient of a gathered operand is scattered, the large ones without being sent to all: of the two biases of
    # the triangle attention, 1 % of the bytes, the compiler makes all-reduces.
    sums = [one for one in found if one.kind in ("reduce-scatter", "all-reduce")]
    assert len(sums) == 6
    triangles = BFLOAT16 * RESIDUES**2 * C_Z * (n - 1) / n
    assert sorted(one.bytes for one in sums if one.kind == "reduce-scatter")[-2:] == pytest.approx([triangles] * 2)
    assert total(sums, "all-reduce") <= 2 * BFLOAT16 * 2 * PAIR_HEADS * RESIDUES**2


def test_the_gradients_of_parameters_are_reduced_once(step: Callable):
    compiled = step("v5e context 8")
    gradients = [one for one in compiled.work.collectives if one.purpose == "gradients" and one.bytes > 1000]
    assert {(one.kind, one.axes) for one in gradients} == {("all-reduce", ("context",))}
    whole = compiled.memory.parameters
    assert sum(one.count * one.bytes for one in gradients) == pytest.approx(2 * whole * 7 / 8, rel=0.05)


def test_fsdp_gathers_a_block_at_a_time_and_scatters_its_gradients(step: Callable):
    compiled = step("v5e fsdp 8")
    parameters = [one for one in compiled.work.collectives if one.purpose == "parameters"]
    assert {one.kind for one in parameters} == {"all-gather"}
    assert {one.axes for one in compiled.work.collectives if one.bytes > 1000} == {("fsdp",)}
    # In the loop over blocks, of two micro-batches: not the whole stack at once, nor again for each chunk of rows.
    assert max(one.bytes for one in parameters) < compiled.memory.parameters
    assert max(one.count for one in parameters) == 2 * BLOCKS
    # Three quarters of the state would be padding if the parts did not fit the TPU's tiles.
    assert compiled.memory.parameters == pytest.approx(step("v5e context 8").memory.parameters / 8, rel=0.1)


@pytest.mark.parametrize(
    "name",
    [
        "v5e small alone",
        "v5e small two at a time",
        "v5e small context 4",
        "v5e fsdp 8",
        "v5e context 8",
        "v5e context 4 none",
        "v5e context 8 gathered",
        "v5p context 8",
        pytest.param("v5p context 8 gathered", marks=pytest.mark.nightly),
        "v5p fine-tuning alone",
        "v6e alone",
        "v6e fine-tuning context 4",
    ],
)
def test_the_formulas_are_near_what_the_compiler_lays_out(step: Callable, name: str):
    config, memory, work = step(name)
    expected = memory_of(config)
    print(
        f"{name}: {expected.total / 2**20:.0f} MiB, compiled {memory.total / 2**20:.0f}: "
        f"{expected.total / memory.total - 1:+.1%}; {step_flops(config) / work.flops - 1:+.3%} of the operations; "
        f"{work_of(config).memory_bytes / work.memory_bytes:.2f} × the traffic with HBM"
    )
    assert memory.gaps >= 0
    assert expected.total == pytest.approx(memory.total, rel=0.10)
    assert step_flops(config) == pytest.approx(work.flops, rel=0.02)
    sent, theory = (sum(one.step_bytes for one in found.collectives) for found in (work, work_of(config)))
    assert theory == pytest.approx(sent, rel=0.15)


def test_what_blocks_keep_of_two_examples_at_a_time_is_told_from_what_they_work_with(step: Callable):
    config, memory, _ = step("v5e small two at a time")
    assert memory.kept == pytest.approx(memory_of(config).kept, rel=0.05)
