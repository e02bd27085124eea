"""Our features are DeepMind's to the bit: its own transforms, one by one and as a pipeline, with our random draws."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from random_protein import random_protein
from reference_pipeline import answer_draws, given, picked, raw_features, recorded_example, reference_features

from evotrain.data.features import msa as transforms
from evotrain.data.features.example import ExampleShape
from evotrain.data.formats.feature_dict import read_feature_dict
from evotrain.data.protein import GAP, MASK, Protein, pseudo_beta

reference = pytest.importorskip("alphafold.model.tf.data_transforms")

SHAPE = ExampleShape(
    crop=64, msa_clusters=8, extra_msa=30, templates=4, passes=2, mask_fraction=0.15, block_deletions=5
)
# Ours, and of which pass: the reference repeats for every pass also what is the same in all of them.
OF_A_PASS = ("msa_feat", "msa_mask", "true_msa", "bert_mask")
OF_THE_EXTRA_MSA = ("extra_msa", "extra_msa_mask", "extra_has_deletion", "extra_deletion_value")
OF_RESIDUES = ("aatype", "residue_index", "seq_mask", "target_feat")
OF_TEMPLATES = ("template_aatype", "template_mask", "template_pseudo_beta", "template_pseudo_beta_mask")


def _assert_equal(ours, theirs, names, passes=slice(None)):
    for name in names:
        x, y = ours[name], theirs[name][passes]
        assert x.dtype == y.dtype or x.dtype.kind == y.dtype.kind == "i", name
        np.testing.assert_array_equal(x, y, err_msg=name)


def _compare(monkeypatch, protein, raw, shape, *, seed=0, training=True, max_rows=None):
    """Compares all that the reference's pipeline makes; returns ours."""
    ours, draws = recorded_example(protein, shape, seed=seed, training=training, max_rows=max_rows)
    theirs = reference_features(monkeypatch, raw, shape, draws, max_rows=max_rows)
    _assert_equal(ours, theirs, OF_A_PASS + (OF_THE_EXTRA_MSA if shape.extra_msa else ()))
    for i in range(shape.passes):
        _assert_equal(ours, theirs, OF_RESIDUES, i)
        if shape.templates and protein.templates:
            _assert_equal(ours, theirs, OF_TEMPLATES, i)
    return ours


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("rows", "length", "templates", "changes"),
    [
        (60, 37, 3, {}),  # padded residues
        (60, 64, 8, {"passes": 1}),
        (200, 150, 20, {}),  # cropped
        (200, 65, 1, {"msa_clusters": 16, "extra_msa": 200}),  # padded rows
        (40, 150, 0, {"extra_msa": 0}),
        (9, 90, 2, {"templates": 0}),  # more cluster centres than rows that stay
        (30, 200, 5, {"mask_fraction": 0.6, "block_deletions": 1, "block_fraction": 0.29}),
    ],
)
def test_the_whole_pipeline(monkeypatch, rows, length, templates, changes, training):
    protein = random_protein(rows, length, seed=rows, templates=templates)
    shape = replace(SHAPE, **changes)
    ours = _compare(monkeypatch, protein, raw_features(protein), shape, seed=length, training=training)
    assert (ours["msa_feat"][..., :MASK].argmax(-1) != ours["true_msa"]).any()


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize(
    "max_rows", [5, 8, 25, 1000]
)  # fewer than centres, as many, with extra rows, more than there are
def test_a_sample_of_rows_in_every_pass(monkeypatch, max_rows, blocks):
    protein = random_protein(120, 50, templates=2)
    shape = replace(SHAPE, block_deletions=blocks, mask_fraction=0.5)
    ours = _compare(monkeypatch, protein, raw_features(protein), shape, max_rows=max_rows)
    shown = ours["msa_mask"][:, :, 0].sum(1) + ours["extra_msa_mask"][:, :, 0].sum(1)
    assert (shown == min(max_rows, 38)).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_crop_of_a_real_protein(monkeypatch, realdata, seed):
    path = realdata.parent / "features" / "openfold_raw_feature_dict.npz"
    protein, raw = _protein(path), _raw(path)
    _compare(monkeypatch, protein, raw, replace(SHAPE, crop=40, msa_clusters=32, extra_msa=64), seed=seed)


RAW = ["openfold_raw_feature_dict", "openfold_raw_features", "unifold_8d27_A_feature"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RAW)
def test_raw_dictionaries_of_alphafolds_data_pipeline(monkeypatch, realdata, name, training):
    path = realdata.parent / "features" / f"{name}.npz"
    protein, raw = _protein(path), _raw(path)
    shape = replace(SHAPE, crop=256, msa_clusters=128, extra_msa=1024, passes=2)
    ours = _compare(monkeypatch, protein, raw, shape, training=training)
    assert ours["msa_mask"].any(-1).sum() == 256  # all rows
    assert (ours["seq_mask"].sum(), ours["template_mask"].sum() > 0) == (min(protein.msa.shape[1], 256), True)


@pytest.mark.slow
@pytest.mark.parametrize("name", RAW)
def test_raw_dictionaries_at_alphafolds_sizes(monkeypatch, realdata, name):
    path = realdata.parent / "features" / f"{name}.npz"
    shape = replace(SHAPE, crop=384, msa_clusters=508, extra_msa=5120, passes=4)
    _compare(monkeypatch, _protein(path), _raw(path), shape)


def _protein(path):
    """The product's reading."""
    features = read_feature_dict(path)
    length = len(features.residue_index)
    return Protein(
        name=path.stem,
        msa=features.msa,
        deletions=features.deletions,
        atom_positions=np.zeros((length, 37, 3), np.float32),
        atom_mask=np.zeros((length, 37), np.float32),
        residue_index=features.residue_index,
        b_factor=np.zeros(length, np.float32),
        templates=features.templates,
    )


def _raw(path):
    """The file as the reference wants it, its templates in the order of their trust."""
    with np.load(path) as file:
        raw = {name: file[name] for name in file}
    if "deletion_matrix_int" not in raw:
        raw["deletion_matrix_int"] = np.zeros(raw["sparse_deletion_matrix_int__shape"], np.int32)
        place = raw["sparse_deletion_matrix_int__row"], raw["sparse_deletion_matrix_int__col"]
        raw["deletion_matrix_int"][place] = raw["sparse_deletion_matrix_int__data"]
    raw["deletion_matrix"] = raw["deletion_matrix_int"].astype(np.float32)
    raw["msa"] = raw["msa"].astype(np.int32)
    raw.setdefault("template_all_atom_masks", raw.get("template_all_atom_mask"))
    trust = np.argsort(-raw["template_sum_probs"][:, 0], kind="stable")
    return {name: x[trust] if name.startswith("template_") else x for name, x in raw.items()}


@pytest.mark.parametrize("depth", [1, 2, 3, 10, 33, 34, 100, 1000, 10007])
@pytest.mark.parametrize(("blocks", "fraction"), [(5, 0.3), (1, 0.29), (3, 0.999), (2, 0.0), (10, 0.07)])
def test_block_deletion(monkeypatch, depth, blocks, fraction):
    rng = np.random.default_rng(depth)
    config = SimpleNamespace(msa_fraction_per_block=fraction, randomize_num_blocks=False, num_blocks=blocks)
    for _ in range(5):
        starts = rng.integers(depth, size=blocks)
        answer_draws(monkeypatch, ("uniform", given(starts)))
        theirs = reference.block_delete_msa(config)({"msa": np.arange(depth)[:, None]})["msa"][:, 0]
        np.testing.assert_array_equal(transforms.delete_blocks(depth, starts, fraction), theirs)


@pytest.mark.parametrize(("rows", "clusters"), [(30, 8), (5, 8), (1, 4)])
def test_sampling_of_cluster_centres(monkeypatch, rows, clusters):
    order = np.random.default_rng(0).permutation(rows - 1)
    answer_draws(monkeypatch, ("random_shuffle", lambda x: x[order]))
    theirs = reference.sample_msa(clusters, keep_extra=True)({"msa": np.arange(rows)})
    centres, others = transforms.split_rows(np.arange(rows), order, clusters)
    np.testing.assert_array_equal(centres, theirs["msa"])
    np.testing.assert_array_equal(others, theirs["extra_msa"])


@pytest.mark.parametrize("rows", [1, 7, 1500])
def test_profile(rows):
    msa = random_protein(rows, 50).msa
    theirs = reference.make_hhblits_profile({"msa": msa.astype(np.int32)})["hhblits_profile"]
    ours = transforms.msa_profile(msa)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def test_masking(monkeypatch):
    msa, rng = random_protein(100, 200).msa, np.random.default_rng(2)
    uniform, draws = rng.random(msa.shape), rng.random(msa.shape)
    config = SimpleNamespace(uniform_prob=0.1, profile_prob=0.1, same_prob=0.1)
    profile = transforms.msa_profile(msa)
    answer_draws(monkeypatch, ("uniform", given(uniform)), ("categorical", picked(draws)))
    batch = {"msa": msa.astype(np.int32), "hhblits_profile": profile}
    theirs = reference.make_masked_msa(config, 0.5)(batch)
    hidden = uniform < 0.5
    np.testing.assert_array_equal(hidden, theirs["bert_mask"])
    np.testing.assert_array_equal(transforms.mask_msa(msa, profile, hidden, draws), theirs["msa"])


@pytest.mark.parametrize(("rows", "clusters", "length"), [(200, 20, 150), (21, 20, 64), (20, 20, 9), (300, 1, 70)])
def test_clusters(rows, clusters, length):
    protein, rng = random_protein(rows, length), np.random.default_rng(3)
    msa, deletions = protein.msa, protein.deletions
    shown = np.where(rng.random((clusters, length)) < 0.2, MASK, msa[:clusters])
    centres, others = np.arange(clusters), np.arange(clusters, rows)
    batch = {"msa": shown, "extra_msa": msa[clusters:], "deletion_matrix": deletions[:clusters]}
    batch |= {"extra_deletion_matrix": deletions[clusters:]}
    batch = {name: x.astype(np.float32 if "del" in name else np.int32) for name, x in batch.items()}
    batch |= {f"{name}_mask": np.ones(batch[name].shape, np.float32) for name in ("msa", "extra_msa")}
    with jax.numpy_rank_promotion("allow"):
        theirs = reference.summarize_clusters()(reference.nearest_neighbor_clusters()(batch))
    ours = transforms.assign_clusters(shown, transforms.pack_rows(msa[clusters:]))
    np.testing.assert_array_equal(ours, theirs["extra_cluster_assignment"])
    indexed = transforms.index_msa(msa, deletions, slice(None))
    profile, mean = transforms.summarize_clusters(shown, centres, others, ours, indexed)
    for x, name in ((profile, "cluster_profile"), (mean, "cluster_deletion_mean")):
        assert x.dtype == theirs[name].dtype
        np.testing.assert_array_equal(x, theirs[name], err_msg=name)


def test_pseudo_beta():
    protein = random_protein(3, 80)
    theirs = reference.pseudo_beta_fn(protein.msa[0], protein.atom_positions, protein.atom_mask)
    for x, y in zip(pseudo_beta(protein.msa[0], protein.atom_positions, protein.atom_mask), theirs, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_a_processed_sample_and_ours_obey_the_same_rules(realdata):
    path = realdata.parent / "features" / "openfold_processed_sample_feats.npz"
    sizes = {"crop": 200, "msa_clusters": 508, "extra_msa": 5120, "passes": 4}
    ours, _ = recorded_example(_protein(path.with_name("openfold_raw_features.npz")), replace(SHAPE, **sizes))
    with np.load(path) as file:
        theirs = {name: file[name] for name in file}
    for name in (*OF_A_PASS, *OF_THE_EXTRA_MSA):
        assert (ours[name].shape, ours[name].dtype) == (theirs[name].shape, theirs[name].dtype), name
    for name in (*OF_RESIDUES, *OF_TEMPLATES):
        assert (ours[name].shape, ours[name].dtype) == (theirs[name].shape[1:], theirs[name].dtype), name
    _check_rules(theirs | {name: theirs[name][0] for name in OF_RESIDUES})
    _check_rules(ours)


def _check_rules(features):
    shown = features["msa_mask"] > 0
    feat, hidden = features["msa_feat"][shown], features["bert_mask"][shown] > 0
    one_hot, has_deletion, deletions, profile, mean = np.split(feat, [23, 24, 25, 48], -1)
    assert set(np.unique(one_hot)) == {0, 1}
    np.testing.assert_array_equal(one_hot.sum(-1), 1)
    true_msa = features["true_msa"][shown]
    np.testing.assert_array_equal(one_hot.argmax(-1)[~hidden], true_msa[~hidden])
    assert (true_msa <= GAP).all()
    assert (one_hot[~hidden, MASK] == 0).all()
    assert hidden.mean() == pytest.approx(0.15, rel=0.02)
    assert one_hot[hidden, MASK].mean() == pytest.approx(0.7, rel=0.02)
    _check_deletions(has_deletion, deletions)
    _check_deletions(features["extra_has_deletion"], features["extra_deletion_value"])
    assert (profile >= 0).all()
    np.testing.assert_allclose(profile.sum(-1), 1, atol=2e-6)  # the guard against empty clusters makes it less than 1
    assert (np.take_along_axis(profile, one_hot.argmax(-1)[:, None], -1) > 0).all()  # the centre is a member
    assert ((mean >= 0) & (mean < 1)).all()
    assert (mean[has_deletion > 0] > 0).all()
    np.testing.assert_array_equal(features["target_feat"][:, 0], 0)
    present = features["seq_mask"] > 0
    np.testing.assert_array_equal(features["target_feat"][present, 1:].argmax(-1), features["aatype"][present])
    np.testing.assert_array_equal(features["true_msa"][:, 0, present], features["aatype"][None, present].repeat(4, 0))


def _check_deletions(has_deletion, value):
    assert set(np.unique(has_deletion)) <= {0, 1}
    np.testing.assert_array_equal(has_deletion > 0, value > 0)
    counts = 3 * np.tan(value.astype(np.float64) * np.pi / 2)
    few = counts < 50  # float32 tells many apart badly
    np.testing.assert_allclose(counts[few], counts[few].round(), atol=0.01)
    assert value.max() < 1
