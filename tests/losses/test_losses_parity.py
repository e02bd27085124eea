"""Losses of the structure and of the confidence heads equal DeepMind's, and so do their gradients.

`pytest -rP` prints the errors.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from evotrain.config import LossConfig, ModelConfig, StructureConfig
from evotrain.losses.structure import confidence_losses, structure_losses
from evotrain.losses.total import weighted_total
from evotrain.losses.violation import violation_metrics
from evotrain.model.heads import AlignedErrorHead, PLDDTHead, ResolvedHead
from evotrain.model.layers import Policy
from evotrain.model.network import bind

pytest.importorskip("alphafold", reason="the reference, DeepMind's code, is in the extra `test`")
import haiku_losses
from parity import Arrays, Program, assert_equal_programs, random_params, reference_params
from quick_compile import QUICK
from random_example import C_S, LENGTH, ideal_residues, random_example, random_prediction, structure_of

STRUCTURE = StructureConfig(layers=1, c_s=C_S, aligned_error=True)
CONFIG = ModelConfig(blocks=1, c_m=6, c_z=5, msa_heads=1, pair_heads=1, c_triangle=4, structure=STRUCTURE)
# As the reference weighs them; it leaves the scaling by length to the trainer.
FINE_TUNING = LossConfig(violation=1.0, scale_by_length=False)
METRICS = {
    "violation/bond": "violations_between_residue_bond",
    "violation/clash": "violations_between_residue_clash",
    "violation/within_residue": "violations_within_residue",
    "violation/any": "violations_per_residue",
    "violation/broken_chain": "violations_extreme_ca_ca_distance",
}
HEADS = {"plddt": PLDDTHead, "resolved": ResolvedHead, "aligned_error": AlignedErrorHead}
LOGITS = {"plddt": (LENGTH, 50), "resolved": (LENGTH, 37), "aligned_error": (LENGTH, LENGTH, 64)}


def test_structure_losses_equal_the_reference():
    example = random_example() | {"clamped": np.array(0.25)}  # a mixture, so that both kinds of error count

    def ours(_: Arrays, prediction: Arrays, example: Arrays) -> Arrays:
        parts = structure_losses(structure_of(prediction), example, example["clamped"], FINE_TUNING)
        return parts | {"total": weighted_total(parts, example["seq_mask"].sum(), FINE_TUNING)}

    assert_equal_programs(
        "structure losses", lambda _: ours, haiku_losses.structure_losses, {}, dict, random_prediction(), example
    )


def test_violation_metrics_equal_the_reference():
    example, random = random_example(), random_prediction()["positions"]
    # Residues of ideal bonds and angles, far apart, every other one missing: little but a ring that does not close.
    alone = ideal_residues(example["aatype"]) + 30.0 * np.arange(LENGTH)[:, None, None]
    positions = np.stack([0.7 * random, random, 4.0 * random, alone, alone])
    residue_index = np.stack([*[example["residue_index"]] * 4, 2 * np.arange(LENGTH)])

    def shares(metrics: Callable) -> Arrays:
        run = jax.vmap(lambda positions, index: metrics(positions, example | {"residue_index": index}))
        return jax.jit(run, compiler_options=QUICK)(positions, residue_index)

    ours, theirs = shares(violation_metrics), shares(haiku_losses.violation_metrics)
    assert {METRICS[name] for name in ours} == set(theirs)
    for name, share in ours.items():
        assert share[-1] < np.max(share), name  # or nothing would be shown
        np.testing.assert_allclose(share, theirs[METRICS[name]], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", HEADS)
def test_confidence_heads_and_their_losses_equal_the_reference(name: str):
    def build(dtype: np.dtype) -> tuple[nnx.GraphDef, nnx.State]:
        return nnx.split(
            nnx.eval_shape(lambda: HEADS[name](CONFIG, policy=Policy(dtype=dtype), rngs=nnx.Rngs(0))), nnx.Param
        )

    def ours(dtype: np.dtype) -> Program:
        graphdef, _ = build(dtype)

        def run(params: Arrays, inputs: Arrays, example: Arrays) -> Arrays:
            logits = bind(graphdef, params)(inputs["z" if name == "aligned_error" else "single"])
            others = {head: logits if head == name else np.zeros(shape, logits.dtype) for head, shape in LOGITS.items()}
            losses = confidence_losses(*others.values(), structure_of(inputs), example)
            return {"logits": logits, "loss": losses[name]}

        return run

    inputs = random_prediction() | {"z": np.random.default_rng(4).normal(size=(LENGTH, LENGTH, CONFIG.c_z))}
    assert_equal_programs(
        f"{name} head",
        ours,
        partial(haiku_losses.confidence, name),
        random_params(nnx.to_pure_dict(build(np.dtype("float32"))[1])),
        partial(reference_params, ours=name, theirs=""),
        inputs,
        random_example(),
    )
