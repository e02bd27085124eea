"""What losses of a structure must not depend on: the target's place, masked labels, padding, and the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from quick_compile import QUICK
from random_example import LENGTH, moved, narrow, random_example, random_prediction, structure_of

from evotrain.config import LossConfig
from evotrain.losses.structure import confidence_losses, structure_losses
from evotrain.losses.violation import violation_metrics
from evotrain.parallel.mesh import ALL_AXES, CONTEXT

Arrays = dict[str, Any]

STRUCTURE_PARTS = {"fape_backbone", "fape_sidechain", "chi", "angle_norm", "violation"}
PARTS = STRUCTURE_PARTS | {"plddt", "resolved", "aligned_error"}
MORE_PADDING = 3
# Whose dimensions of residues come after the first, or are several.
LAYERED = ("quaternion", "translation", "angles", "unnormalized_angles")
LABELS = {
    "all_atom_positions": "all_atom_mask",
    "atom14_gt_positions": "atom14_gt_exists",
    "atom14_alt_gt_positions": "atom14_alt_gt_exists",
    "rigidgroups_gt_frames": "rigidgroups_gt_exists",
    "rigidgroups_alt_gt_frames": "rigidgroups_gt_exists",
    "chi_angles": "chi_mask",
}


def losses(prediction: Arrays, example: Arrays) -> Arrays:
    """All parts, the violation among them."""
    structure = structure_of(prediction)
    parts = structure_losses(structure, example, jnp.float32(0.5), LossConfig(violation=1.0))
    logits = (prediction[name] for name in ("plddt", "resolved", "aligned_error"))
    return parts | confidence_losses(*logits, structure, example)


def weighted(prediction: Arrays, example: Arrays) -> tuple[jax.Array, Arrays]:
    parts = losses(prediction, example)
    return sum((1.0 + i) * parts[name] for i, name in enumerate(sorted(parts))), parts


def compiled(function: Callable) -> Callable:
    return jax.jit(function, compiler_options=QUICK)


# Values and gradient by the prediction; compiled once for all tests of this file.
judge = compiled(jax.value_and_grad(weighted, has_aux=True))
judge_gradients_by_part = compiled(jax.jacrev(losses))


@pytest.fixture(scope="module")
def example() -> Arrays:
    return narrow(random_example())


@pytest.fixture(scope="module")
def prediction() -> Arrays:
    rng = np.random.default_rng(5)
    logits = {
        "plddt": rng.normal(size=(LENGTH, 50)),
        "resolved": rng.normal(size=(LENGTH, 37)),
        "aligned_error": rng.normal(size=(LENGTH, LENGTH, 64)),
    }
    return narrow(random_prediction() | logits)


def padded(prediction: Arrays, example: Arrays) -> tuple[Arrays, Arrays]:
    """With more padding at the end, which of the prediction is anything and of the example zero."""

    def pad(name: str, x: np.ndarray) -> np.ndarray:
        dims = {"aligned_error": (0, 1), **dict.fromkeys(LAYERED, (1,))}.get(name, (0,))
        widths = [(0, MORE_PADDING if dim in dims else 0) for dim in range(x.ndim)]
        return np.pad(x, widths, constant_values=7.0 if name in prediction else 0)

    return (
        {name: pad(name, x) for name, x in prediction.items()},
        {name: pad(name, x) if x.ndim else x for name, x in example.items()},
    )


def assert_close(found: Any, expected: Any) -> None:
    """To 1e-5 of the largest absolute value of each array."""
    pairs = zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True)
    for (path, a), b in pairs:
        tolerance = 1e-5 * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def test_moving_the_target_changes_no_loss_and_no_gradient(prediction: Arrays, example: Arrays):
    (_, parts), gradient = judge(prediction, example)
    assert set(parts) == PARTS
    assert all(part > 0 for part in parts.values())
    (_, found), found_gradient = judge(prediction, narrow(moved(example)))
    assert_close(found, parts)
    assert_close(found_gradient, gradient)


def test_labels_that_masks_hide_change_nothing(prediction: Arrays, example: Arrays):
    (_, parts), gradient = judge(prediction, example)
    hidden = dict(example)
    for name, mask in LABELS.items():
        shown = example[mask].reshape(example[mask].shape + (1,) * (example[name].ndim - example[mask].ndim))
        assert np.any(shown == 0)
        hidden[name] = np.where(shown > 0, example[name], np.float32(9.0))
    (_, found), found_gradient = judge(prediction, hidden)
    assert_close(found, parts)
    assert_close(found_gradient, gradient)


def test_padding_changes_nothing_and_has_no_gradient(prediction: Arrays, example: Arrays):
    (_, parts), gradient = judge(prediction, example)
    (_, found), found_gradient = compiled(jax.value_and_grad(weighted, has_aux=True))(*padded(prediction, example))
    assert_close(found, parts)
    longer, _ = padded(jax.device_get(gradient), {})
    marked, _ = padded(jax.tree.map(np.zeros_like, prediction), {})  # 0, and not 0 where there is padding
    assert_close(found_gradient, jax.tree.map(lambda x, new: np.where(new != 0, 0.0, x), longer, marked))


def test_what_is_not_observed_has_exactly_no_gradient(prediction: Arrays, example: Arrays):
    by_part = jax.device_get(judge_gradients_by_part(prediction, example))
    residues = example["seq_mask"] == 0
    for part, gradients in by_part.items():
        for name, gradient in gradients.items():
            of_padding = np.moveaxis(gradient, 1, 0)[residues] if name in LAYERED else gradient[residues]
            assert not of_padding.any(), (part, name)
    # Atoms that are not observed under either name.
    unseen = (example["atom14_gt_exists"] == 0) & (example["atom14_alt_gt_exists"] == 0)
    assert not by_part["fape_sidechain"]["positions"][unseen].any()
    assert by_part["fape_sidechain"]["positions"][~unseen].any()
    assert not by_part["fape_sidechain"]["frames"][example["rigidgroups_gt_exists"] == 0].any()
    assert not by_part["fape_backbone"]["translation"][:, example["rigidgroups_gt_exists"][:, 0] == 0].any()
    assert not by_part["chi"]["angles"][:, :, 3:][:, example["chi_mask"] == 0].any()
    assert not by_part["plddt"]["plddt"][example["all_atom_mask"][:, 1] == 0].any()


def test_confidence_does_not_move_the_structure(prediction: Arrays, example: Arrays):
    by_part = jax.device_get(judge_gradients_by_part(prediction, example))
    for part in ("plddt", "resolved", "aligned_error"):
        moving = {name for name, gradient in by_part[part].items() if gradient.any()}
        assert moving == {part}


@pytest.mark.parametrize(("resolution", "counts"), [(0.0, False), (0.1, True), (3.0, True), (3.1, False)])
def test_confidence_is_learnt_from_good_structures_alone(
    prediction: Arrays, example: Arrays, resolution: float, counts: bool
):
    _, parts = judge(prediction, example | {"resolution": np.float32(resolution)})[0]
    assert {name for name, part in parts.items() if part == 0} == (set() if counts else PARTS - STRUCTURE_PARTS)


def test_an_example_in_which_nothing_was_observed_has_finite_losses_and_gradients(prediction: Arrays, example: Arrays):
    hidden = {name: x if name in ("aatype", "residue_index") else np.zeros_like(x) for name, x in example.items()}
    found = judge(prediction, hidden)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert not np.any(found[0][0])
    assert not any(np.any(x) for x in jax.tree.leaves(found[1]))


def test_violation_is_left_out_where_it_has_no_weight(prediction: Arrays, example: Arrays):
    def parts(config: LossConfig) -> set[str]:
        shapes = jax.eval_shape(lambda: structure_losses(structure_of(prediction), example, jnp.float32(1.0), config))
        return set(shapes)

    assert parts(LossConfig()) == STRUCTURE_PARTS - {"violation"}
    assert parts(LossConfig(violation=0.5)) == STRUCTURE_PARTS


def test_devices_that_share_an_example_find_the_losses_and_gradients_of_one(prediction: Arrays, example: Arrays):
    def measure(prediction: Arrays, example: Arrays) -> tuple[jax.Array, Arrays]:
        total, parts = weighted(prediction, example)
        return total, parts | violation_metrics(prediction["positions"], example)

    prediction, example = padded(prediction, example)  # to 16 residues
    mesh = jax.make_mesh((1, 1, 8), ALL_AXES, axis_types=(AxisType.Auto,) * 3)
    sharded = {name: P(CONTEXT) if name == "aligned_error" else P() for name in prediction}
    on_shards = jax.shard_map(measure, mesh=mesh, in_specs=(sharded, P()), out_specs=P())
    found = compiled(jax.value_and_grad(on_shards, has_aux=True))(prediction, example)
    expected = compiled(jax.value_and_grad(measure, has_aux=True))(prediction, example)
    assert_close(jax.device_get(found), jax.device_get(expected))
