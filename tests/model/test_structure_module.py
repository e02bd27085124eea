"""The structure module is indifferent to what must not matter: padding, motions, the mesh, what is recomputed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from context_mesh import assert_equal_on_context_mesh
from parity import Arrays, random_params
from quick_compile import QUICK
from scipy.spatial.transform import Rotation
from structure_parts import RESIDUES, build, inputs_and_features, ours, whole
from tree_error import largest_error

from evotrain.model.network import bind
from evotrain.model.rigid import Rigid
from evotrain.model.sidechain import atom14_positions, rigid_group_frames, unit
from evotrain.model.structure import atom14_to_atom37
from evotrain.parallel.context import gather, shard
from evotrain.residues import ATOM14_TO_ATOM37, ATOM37_EXISTS, NUM_TYPES, RESIDUE_ATOM14_NAMES


def test_padding_changes_nothing():
    inputs, given = inputs_and_features()
    inputs = {name: inputs[name] for name in ("single", "pair")}
    given = {name: given[name] for name in ("aatype", "seq_mask")}

    def padded(x: np.ndarray, fill: float) -> np.ndarray:
        return np.pad(x, [(0, 5) if size == RESIDUES else (0, 0) for size in x.shape], constant_values=fill)

    more_inputs = {name: padded(x, 3.0) for name, x in inputs.items()}
    more_given = {name: padded(x, 0) for name, x in given.items()}
    program, params = whole()
    run = jax.jit(program, compiler_options=QUICK)
    alone, among = run(params, inputs, given), run(params, more_inputs, more_given)
    valid = np.flatnonzero(given["seq_mask"])
    for name, x in alone.items():
        residues = x.shape.index(RESIDUES)
        a, b = (np.take(np.asarray(found), valid, axis=residues) for found in (x, among[name]))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max(), err_msg=name)


def test_a_masked_chain_is_finite():
    inputs, given = inputs_and_features()
    program, params = whole()
    nothing = given | {"seq_mask": np.zeros(RESIDUES)}

    @partial(jax.jit, compiler_options=QUICK)
    @partial(jax.value_and_grad, argnums=(0, 1))
    def loss(params: Arrays, inputs: Arrays) -> jax.Array:
        return sum(jnp.sum(x) for x in program(params, inputs, nothing).values())

    assert all(np.isfinite(x).all() for x in jax.tree.leaves(loss(params, inputs)))


def test_every_context_shard_folds_the_same_chain():
    inputs, given = inputs_and_features()
    program, params = whole()

    def sharded(params: Arrays, inputs: Arrays, given: Arrays) -> Arrays:
        outputs = program(params, inputs | {"pair": gather(inputs["pair"], 0)}, given)
        return {name: shard(outputs[name], 0) for name in ("single", "positions", "frame_rotation")}

    used = {name: inputs[name] for name in ("single", "pair")}
    assert_equal_on_context_mesh(sharded, params, used, given, devices=3, whole=("single",))


def test_turning_the_frames_changes_no_update():
    """Invariant point attention sees neither where the chain lies nor how it is turned."""
    inputs, given = inputs_and_features()
    program = jax.jit(ours("attention", np.dtype("float32")), compiler_options=QUICK)
    params = random_params(build("attention", np.dtype("float32"))[1])
    motion, chain = Rotation.random(random_state=0), Rotation.from_quat(inputs["quaternion"], scalar_first=True)
    moved = {
        "quaternion": (motion * chain).as_quat(scalar_first=True),
        "translation": motion.apply(inputs["translation"]) + np.array([[1.0, -2.0, 3.0]]),
    }
    update, same = (program(params, x, given)["update"] for x in (inputs, inputs | moved))
    np.testing.assert_allclose(update, same, rtol=0, atol=1e-5 * np.abs(update).max())


def test_dropout_is_drawn_anew_for_each_key():
    inputs, given = inputs_and_features()
    graphdef, shapes = build("structure", np.dtype("float32"))
    params = random_params(shapes)

    @partial(jax.jit, compiler_options=QUICK)
    def positions(key: jax.Array) -> jax.Array:
        module = bind(graphdef, params)
        return module(inputs["single"], inputs["pair"], given["aatype"], given["seq_mask"], key).atom14_positions

    first, again, other = (positions(jax.random.key(seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert np.abs(first - other).max() > 1e-2


def test_remat_recomputes_the_layers_and_changes_no_gradient():
    inputs, given = inputs_and_features()

    def gradient(remat: str) -> tuple[Arrays, str]:
        program, params = whole(remat)
        lowered = jax.jit(jax.grad(lambda params: jnp.sum(program(params, inputs, given)["positions"] ** 2))).lower(
            params
        )
        return jax.device_get(lowered.compile(compiler_options=QUICK)(params)), lowered.as_text()

    (kept, kept_text), (recomputed, text) = gradient("none"), gradient("block")
    assert kept_text.count("dot_general") < text.count("dot_general")
    error, array = largest_error(recomputed, kept)
    assert error < 1e-5, array


def test_ideal_geometry():
    """At any torsion angles, atoms that are bonded within a rigid group keep the bond's length."""
    rng = np.random.default_rng(0)
    aatype = np.arange(NUM_TYPES)
    backbone = Rigid(np.tile(np.eye(3, dtype=np.float32), (NUM_TYPES, 1, 1)), np.zeros((NUM_TYPES, 3), np.float32))

    @partial(jax.jit, compiler_options=QUICK)
    def build_atoms(vectors: jax.Array) -> jax.Array:
        return atom14_positions(aatype, rigid_group_frames(aatype, backbone, unit(vectors)))

    positions = np.asarray(build_atoms(rng.normal(size=(NUM_TYPES, 7, 2)).astype(np.float32)))
    for bond, lengths in {("N", "CA"): (1.44, 1.48), ("CA", "C"): (1.51, 1.54), ("C", "O"): (1.22, 1.25)}.items():
        for names, atoms in zip(RESIDUE_ATOM14_NAMES[:-1], positions[:-1], strict=True):
            distance = np.linalg.norm(atoms[names.index(bond[0])] - atoms[names.index(bond[1])])
            assert lengths[0] < distance < lengths[1], (bond, distance)
    assert not positions[-1].any()


def test_atom14_to_atom37():
    aatype = np.arange(NUM_TYPES)
    # The position of each atom is its place in the atom37 order.
    positions = np.repeat(ATOM14_TO_ATOM37[..., None], 3, axis=-1).astype(np.float32)
    expected = ATOM37_EXISTS * np.arange(37)[None]
    np.testing.assert_array_equal(atom14_to_atom37(positions, aatype)[..., 0], expected)
