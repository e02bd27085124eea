import numpy as np
import pytest

from evotrain.data import features
from evotrain.data.protein import CA_ATOM, GAP, GLYCINE, MASK, Protein

ROWS, LENGTH = 60, 37


def _protein(rows=ROWS, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    msa = rng.integers(0, 22, (rows, length)).astype(np.uint8)
    msa[rng.random(msa.shape) < 0.2] = GAP
    msa[0] = rng.integers(0, 21, length)
    return Protein(
        name="random",
        msa=msa,
        deletions=(rng.poisson(0.3, msa.shape) * rng.integers(0, 5, msa.shape)).astype(np.int32),
        atom_positions=rng.standard_normal((length, 37, 3)).astype(np.float32),
        atom_mask=(rng.random((length, 37)) < 0.8).astype(np.float32),
        residue_index=np.arange(length, dtype=np.int32),
    )


def _example(protein, seed=0, crop=16, msa_clusters=8, mask_fraction=0.15):
    rng = np.random.default_rng(seed)
    return features.example(protein, rng, crop=crop, msa_clusters=msa_clusters, mask_fraction=mask_fraction)


@pytest.mark.parametrize(
    ("crop", "clusters", "rows"), [(16, 8, 60), (64, 8, 60), (16, 100, 60), (64, 100, 60), (37, 60, 60), (50, 4, 1)]
)
def test_shapes_do_not_depend_on_the_protein_and_padding_is_zero(crop, clusters, rows):
    example = _example(_protein(rows), crop=crop, msa_clusters=clusters)
    shapes = {name: (value.shape, value.dtype.name) for name, value in example.items()}
    assert shapes == {
        "aatype": ((crop,), "int32"),
        "residue_index": ((crop,), "int32"),
        "seq_mask": ((crop,), "float32"),
        "target_feat": ((crop, 22), "float32"),
        "msa_feat": ((clusters, crop, 49), "float32"),
        "msa_mask": ((clusters, crop), "float32"),
        "true_msa": ((clusters, crop), "int32"),
        "bert_mask": ((clusters, crop), "float32"),
        "pseudo_beta": ((crop, 3), "float32"),
        "pseudo_beta_mask": ((crop,), "float32"),
    }
    residues, depth = min(crop, LENGTH), min(clusters, rows)
    assert example["seq_mask"].sum() == residues
    assert example["msa_mask"].sum() == residues * depth
    for name, value in example.items():
        if value.shape[:2] == (clusters, crop):
            assert not value[depth:].any(), name
            assert not value[:, residues:].any(), name
        else:
            assert not value[residues:].any(), name


def test_same_generator_state_same_example():
    protein = _protein()
    first, again, other = _example(protein, 1), _example(protein, 1), _example(protein, 2)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["msa_feat"] != other["msa_feat"]).any()


def test_the_crop_cuts_everything_alike_and_starts_anywhere():
    protein = _protein()
    starts = {int(_example(protein, seed)["residue_index"][0]) for seed in range(400)}
    assert starts == set(range(LENGTH - 16 + 1))
    example = _example(protein, seed=1)
    start = example["residue_index"][0]
    assert start > 0
    window = slice(start, start + 16)
    np.testing.assert_array_equal(example["residue_index"], np.arange(start, start + 16))
    np.testing.assert_array_equal(example["aatype"], protein.msa[0, window])
    np.testing.assert_array_equal(example["target_feat"][:, 1:].argmax(-1), protein.msa[0, window])
    assert not example["target_feat"][:, 0].any()
    glycine = example["aatype"] == GLYCINE
    np.testing.assert_array_equal(example["pseudo_beta_mask"][glycine], protein.atom_mask[window][glycine, CA_ATOM])
    np.testing.assert_array_equal(example["pseudo_beta"][~glycine], protein.atom_positions[window][~glycine, 3])


def test_the_query_stays_first_and_the_rows_partition():
    rows, others = features.split_rows(np.random.default_rng(0).permutation(59), 8)
    assert rows[0] == 0
    assert len(rows) == 8
    assert sorted([*rows, *others]) == list(range(60))
    protein = _protein()
    for seed in range(5):
        example = _example(protein, seed)
        np.testing.assert_array_equal(example["true_msa"][0], protein.msa[0, example["residue_index"]])


def test_nothing_hidden_leaves_the_msa_as_it_is():
    example = _example(_protein(), mask_fraction=0.0)
    np.testing.assert_array_equal(example["msa_feat"][..., :23].argmax(-1), example["true_msa"])
    assert not example["bert_mask"].any()


def test_masking_has_alphafolds_proportions():
    rng = np.random.default_rng(0)
    msa = np.full((400, 500), 3)
    profile = np.zeros((500, 22), np.float32)
    profile[:, 7] = 1
    hidden = rng.random(msa.shape) < 0.15
    shown = features.mask_msa(msa, profile, hidden, rng.random(msa.shape))
    np.testing.assert_array_equal(shown[~hidden], 3)
    share = np.bincount(shown[hidden], minlength=23) / hidden.sum()
    expected = np.zeros(23)
    expected[:20] = 0.1 / 20
    expected[7] += 0.1
    expected[3] += 0.1
    expected[MASK] = 0.7
    np.testing.assert_allclose(share, expected, atol=0.01)


def test_clusters_equal_a_row_by_row_count():
    protein = _protein(rows=30)
    rng = np.random.default_rng(1)
    msa = np.where(rng.random((6, LENGTH)) < 0.1, MASK, protein.msa[:6])
    extra, deletions = protein.msa[6:], protein.deletions
    assignment = features.assign_clusters(msa, extra)
    for row, cluster in zip(extra, assignment, strict=True):
        agreement = [sum(a == b and a < GAP for a, b in zip(row, centre, strict=True)) for centre in msa]
        assert cluster == int(np.argmax(agreement))
    profile, mean = features.summarize_clusters(msa, deletions[:6], extra, deletions[6:], assignment)
    for cluster in range(6):
        members = np.concatenate([msa[cluster : cluster + 1], extra[assignment == cluster]])
        counts = np.concatenate([deletions[cluster : cluster + 1], deletions[6:][assignment == cluster]])
        np.testing.assert_allclose(profile[cluster], np.eye(23)[members].mean(0), atol=2e-6)
        np.testing.assert_allclose(mean[cluster], counts.mean(0), rtol=2e-6)


def test_channels_of_msa_feat():
    msa = np.array([[3, MASK]])
    deletions = np.array([[0, 3]])
    profile = np.full((1, 2, 23), 0.25, np.float32)
    feat = features.msa_feat(msa, deletions, profile, np.array([[3.0, 0.0]], np.float32))
    np.testing.assert_array_equal(feat[..., :23], np.eye(23)[msa])
    np.testing.assert_array_equal(feat[..., 23], [[0, 1]])
    np.testing.assert_allclose(feat[..., 24], [[0, 0.5]])
    np.testing.assert_array_equal(feat[..., 25:48], profile)
    np.testing.assert_allclose(feat[..., 48], [[0.5, 0]])


def _reference_features(monkeypatch, protein, order, hidden, draws, clusters):
    """What AlphaFold's own transforms make of the protein with our random draws put in the place of theirs."""
    transforms = pytest.importorskip("alphafold.model.tf.data_transforms")
    jax = pytest.importorskip("jax")
    config = pytest.importorskip("alphafold.model.config").CONFIG.data.common.masked_msa
    monkeypatch.setattr(transforms.tf, "random_shuffle", lambda rows: rows[order])
    monkeypatch.setattr(transforms.tf.random, "uniform", lambda shape: np.where(hidden, 0.0, 1.0))

    def categorical(probabilities, epsilon=1e-10):
        cumulative = np.cumsum(probabilities, axis=-1, dtype=np.float64)
        return (cumulative[..., :-1] <= draws[..., None] * cumulative[..., -1:]).sum(-1).astype(np.int32)

    monkeypatch.setattr(transforms, "shaped_categorical", categorical)
    batch = {
        "msa": protein.msa.astype(np.int32),
        "deletion_matrix": protein.deletions.astype(np.float32),
        "aatype": protein.msa[0].astype(np.int32),
        "between_segment_residues": np.zeros(protein.msa.shape[1], np.int32),
    }
    with jax.numpy_rank_promotion("allow"):
        batch = transforms.make_hhblits_profile(transforms.make_msa_mask(batch))
        batch = transforms.sample_msa(clusters, keep_extra=True)(batch)
        batch = transforms.make_masked_msa(config, 0.15)(batch)
        batch = transforms.nearest_neighbor_clusters()(batch)
        batch = transforms.summarize_clusters()(batch)
        return transforms.make_msa_feat()(batch)


@pytest.mark.parametrize(("rows", "clusters"), [(60, 8), (60, 59), (6, 8)])
def test_equals_alphafolds_transforms_with_the_same_draws(monkeypatch, rows, clusters):
    protein = _protein(rows, seed=rows)
    rng = np.random.default_rng(4)
    order = rng.permutation(rows - 1)
    shape = (min(rows, clusters), LENGTH)
    hidden, draws = rng.random(shape) < 0.15, rng.random(shape)

    class Recorded:
        """A generator that makes these draws in the order in which `example` asks for them."""

        uniform = iter((np.where(hidden, 0.0, 1.0), draws))

        def integers(self, count):
            assert count == 1  # the crop takes the whole protein
            return 0

        def permutation(self, count):
            assert count == len(order)
            return order

        def random(self, shape):
            return next(self.uniform)

    ours = features.example(protein, Recorded(), crop=LENGTH, msa_clusters=shape[0], mask_fraction=0.15)
    theirs = _reference_features(monkeypatch, protein, order, hidden, draws, clusters)
    assert (theirs["msa"] != theirs["true_msa"]).any()
    np.testing.assert_array_equal(ours["true_msa"], theirs["true_msa"])
    np.testing.assert_array_equal(ours["bert_mask"], theirs["bert_mask"])
    np.testing.assert_array_equal(ours["target_feat"], theirs["target_feat"])
    np.testing.assert_array_equal(ours["msa_feat"], theirs["msa_feat"])
