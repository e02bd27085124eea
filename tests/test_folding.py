"""The loop around the network: buckets, features of each pass, and when recycling ends. The network is replaced."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evotrain.compose import compose
from evotrain.data.features.example import ExampleShape, example
from evotrain.data.protein import CA_ATOM, NUM_ATOMS, UNKNOWN, Protein
from evotrain.data.queries import Query
from evotrain.errors import DataError, RunError
from evotrain.folding import (
    Folding,
    bucket_shape,
    nothing_recycled,
    pass_features,
    recycle,
    recycled_shardings,
    residue_bucket,
    row_bucket,
)
from evotrain.model.recycling import Recycled
from evotrain.parallel.mesh import make_mesh

SHAPE = ExampleShape(crop=256, msa_clusters=128, extra_msa=1024, passes=4, structure=True, mask_fraction=0.15)
OVERRIDES = [
    "model=tiny_fold", "data=msa_dir", "data.root=unused", "data.msa_clusters=32", "data.extra_msa=32", "mesh.data=1",
]  # fmt: skip


def protein(depth=50, length=20, seed=0):
    rng = np.random.default_rng(seed)
    return Protein(
        name="x",
        msa=np.concatenate([rng.integers(20, size=(1, length)), rng.integers(22, size=(depth - 1, length))]).astype(
            np.uint8
        ),
        deletions=rng.integers(3, size=(depth, length)).astype(np.int32),
        atom_positions=np.zeros((length, NUM_ATOMS, 3), np.float32),
        atom_mask=np.zeros((length, NUM_ATOMS), np.float32),
        residue_index=np.arange(length, dtype=np.int32),
        b_factor=np.zeros(length, np.float32),
    )


@pytest.mark.parametrize(
    ("length", "bucket"), [(1, 32), (32, 32), (33, 64), (257, 288), (512, 512), (513, 576), (1400, 1408)]
)
def test_residue_buckets(length, bucket):
    assert residue_bucket(length) == bucket


def test_residue_buckets_are_few_and_close():
    lengths = np.arange(1, 2049)
    buckets = np.array([residue_bucket(int(length)) for length in lengths])
    assert (buckets >= lengths).all()
    assert (np.diff(buckets) >= 0).all()
    assert len(set(buckets)) == 8 + 8 + 8 + 8
    assert (buckets[256:] <= 1.125 * lengths[256:] + 1).all()


@pytest.mark.parametrize(
    ("depth", "most", "rows"),
    [(1, 508, 32), (32, 508, 32), (33, 508, 128), (9999, 508, 508), (1, 8, 8), (-5, 64, 32)],
)
def test_row_buckets(depth, most, rows):
    assert row_bucket(depth, most) == rows


def test_a_shallow_alignment_has_a_small_shape():
    found = bucket_shape(SHAPE, 1, 45)
    assert found == replace(SHAPE, crop=64, msa_clusters=32, extra_msa=32, passes=1, structure=False)
    assert bucket_shape(SHAPE, 5000, 45) == replace(SHAPE, crop=64, passes=1, structure=False)
    assert bucket_shape(replace(SHAPE, extra_msa=0), 5000, 45).extra_msa == 0


def test_each_pass_has_its_own_sample_of_the_alignment():
    shape = bucket_shape(replace(SHAPE, msa_clusters=8, extra_msa=16), 50, 20)
    first, second = (pass_features(protein(), shape, seed=3, devices=1) for _ in range(2))
    passes = [next(first) for _ in range(3)]
    assert passes[0]["msa_feat"].shape == (8, 32, 49)
    assert passes[0]["extra_msa"].shape == (16, 32)
    assert passes[0]["seq_mask"].sum() == 20
    assert not np.array_equal(passes[0]["msa_feat"], passes[1]["msa_feat"])
    for found in passes:
        again = next(second)
        assert all(np.array_equal(found[name], again[name]) for name in found)
    np.testing.assert_array_equal(passes[0]["true_msa"][0, :20], protein().msa[0])


def test_the_first_pass_sees_what_an_evaluation_sees():
    shape = bucket_shape(replace(SHAPE, msa_clusters=8, extra_msa=16), 50, 20)
    found = next(pass_features(protein(), shape, seed=3, devices=1))
    expected = example(protein(), np.random.default_rng(3), shape, training=False)
    np.testing.assert_array_equal(found["msa_feat"], expected["msa_feat"][0])
    np.testing.assert_array_equal(found["target_feat"], expected["target_feat"])


def positions(scale, length=20, padded=32):
    """Cα in a line, `scale` Å apart; padding far away."""
    found = np.zeros((padded, NUM_ATOMS, 3), np.float32)
    found[:length, CA_ATOM, 0] = scale * np.arange(length)
    found[length:] = 1e4
    return found


def run_loop(scales, passes, tolerance):
    """The number of passes that are made where pass after pass predicts a line of another scale, and the changes."""
    made = []

    def step(recycled):
        made.append(recycled)
        return {"atom_positions": jnp.asarray(positions(scales[recycled]))}, recycled + 1

    outputs, changes = recycle(step, 0, np.arange(20), passes=passes, tolerance=tolerance)
    np.testing.assert_array_equal(outputs["atom_positions"], positions(scales[made[-1]]))
    assert made == list(range(len(made)))
    return len(made), changes


def test_recycling_ends_when_distances_change_less_than_the_tolerance():
    scales = [1.0, 2.0, 2.5, 2.51, 2.51]
    made, changes = run_loop(scales, 5, 0.5)
    separation = np.subtract.outer(np.arange(20), np.arange(20))
    expected = np.diff(scales[:4]) * np.sqrt(np.mean(separation**2))
    assert made == 4
    assert changes == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("passes", "tolerance", "made"), [(1, 0.5, 1), (3, 1e9, 2), (3, 0.0, 3), (5, 0.0, 5)])
def test_recycling_ends_after_its_passes(passes, tolerance, made):
    assert run_loop([1.0, 2.0, 2.0, 2.0, 2.0], passes, tolerance)[0] == made


def test_a_translation_is_no_change():
    def step(shift):
        return {"atom_positions": jnp.asarray(positions(3.8) + 10 * shift)}, shift + 1

    _, changes = recycle(step, 0, np.arange(20), passes=4, tolerance=0.1)
    assert changes == pytest.approx([0.0], abs=1e-4)


def test_positions_that_are_not_finite_end_it():
    with pytest.raises(RunError, match="the predicted positions are not finite"):
        nowhere = np.full((4, NUM_ATOMS, 3), np.nan)
        recycle(lambda _: ({"atom_positions": nowhere}, None), None, np.arange(4), passes=3, tolerance=0.5)
    padded = positions(1.0)
    padded[20:] = np.nan
    recycle(lambda _: ({"atom_positions": padded}, None), None, np.arange(20), passes=1, tolerance=0.5)


@pytest.fixture(params=[1, 3], ids="{} devices".format)
def folding(request):
    """Folds with a network whose every pass adds 1 to what it hands on, and the lines that were reported."""
    config = compose(OVERRIDES)
    mesh = make_mesh(replace(config.mesh, context=request.param))
    lines = []

    def step(params, features, recycled):
        n = features["aatype"].shape[0]
        assert n % mesh.size == features["msa_feat"].shape[0] % mesh.size == 0
        atoms = features["seq_mask"][:, None] * jnp.ones((n, NUM_ATOMS))
        outputs = {
            "atom_positions": recycled.positions + features["residue_index"][:, None, None].astype(float),
            "atom_mask": atoms,
            "plddt": jnp.full(n, params),
            "contact_probability": jnp.broadcast_to(features["seq_mask"], (n, n)),
            "aligned_error": jnp.broadcast_to(features["seq_mask"][:, None], (n, n)),
            "ptm": jnp.float32(0.5),
        }
        return outputs, Recycled(*(x + 1 for x in recycled))

    return Folding(config, mesh, step, 80.0, lines.append), lines


def test_a_fold_has_no_padding(folding):
    fold = folding[0].fold(Query("x", protein))
    assert fold.name == "x"
    assert fold.positions.shape == (20, 37, 3)
    assert fold.mask.shape == (20, 37)
    assert fold.plddt.tolist() == [80.0] * 20
    assert fold.contact_probability.shape == fold.aligned_error.shape == (20, 20)
    assert fold.contact_probability.min() == fold.aligned_error.min() == 1
    assert fold.changes == [0.0]
    np.testing.assert_array_equal(fold.aatype, protein().msa[0])
    np.testing.assert_allclose(fold.positions[:, 0, 0], np.arange(20) + 1)  # of the second pass


def test_lines_of_the_console(folding):
    folder, lines = folding
    folder.fold(Query("a", protein))
    folder.fold(Query("b", lambda: protein(length=30)))
    folder.fold(Query("c", lambda: protein(length=33, depth=1)))
    said = [line.partition("  ")[0] for line in lines]
    assert said == [
        "Compiling for up to 32 residues and 32 MSA rows …",
        "a: 20 residues, 50 sequences",
        "b: 30 residues, 50 sequences",
        "Compiling for up to 64 residues and 32 MSA rows …",
        "c: 33 residues, 1 sequence",
    ]
    assert "  pLDDT 80.0  pTM 0.50  2 passes, the last moved distances by 0.00 Å  " in lines[1]


def test_the_first_pass_finds_zeros_where_later_ones_find_theirs():
    config = compose(OVERRIDES)
    mesh = make_mesh(replace(config.mesh, context=3))
    nothing = nothing_recycled(config.model, 32, mesh)
    assert nothing.m_first.shape == (33, config.model.c_m)
    assert nothing.z.shape == (33, 33, config.model.c_z)
    assert nothing.positions.shape == (33, 37, 3)
    for x, sharding in zip(nothing, recycled_shardings(mesh), strict=True):
        assert x.sharding == sharding
        assert not np.asarray(x).any()


def test_unknown_residues_have_no_atoms_that_could_move(folding):
    some, none = protein(), replace(protein(), msa=np.full((1, 20), UNKNOWN, np.uint8))
    some.msa[0, 4:] = UNKNOWN
    assert len(folding[0].fold(Query("x", lambda: some)).aatype) == 20
    with pytest.raises(DataError, match="none of its 20 residues is known: there is nothing to fold"):
        folding[0].fold(Query("x", lambda: none))


def test_a_protein_that_does_not_fit_is_the_datas_fault(folding):
    folder, _ = folding

    def step(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")

    folder._step = step
    with pytest.raises(DataError, match="its 20 residues do not fit into the memory of .*: write kernels=xla_chunked"):
        folder.fold(Query("x", protein))

    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    folder._step = broken
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        folder.fold(Query("x", protein))
