"""A run of the whole network in small: it starts from published parameters, trains, and folds."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import SIZES, rows, saved_state, tiny_config, train_tiny

from evotrain.cli import main
from evotrain.data.formats.alignment import letters
from evotrain.errors import ConfigError
from evotrain.model.network import initial_params
from evotrain.residues import ATOM37_EXISTS
from evotrain.resume import published_params
from evotrain.structure_file import mmcif_bytes, predicted_structure
from evotrain.weights import save_alphafold

FOLDING = [
    *SIZES, "model.recycles=1", "model.extra_msa.blocks=1", "model.extra_msa.c_m=8", "model.extra_msa.heads=2",
    "model.template.blocks=1", "model.template.c_t=8", "model.template.heads=2", "model.structure.layers=2",
    "model.structure.c_s=16", "model.structure.heads=2", "model.structure.c_sidechain=8",
    "model.structure.c_confidence=8", "data=msa_dir", "data.crop=32", "data.msa_clusters=8", "data.extra_msa=8",
    "data.templates=2", "data.eval_examples=4", "data.eval_fraction=0.5", "eval_every=2",
]  # fmt: skip
LENGTH = 30


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The data.root of eight chains with scattered atoms, all of them there, and an alignment of ten sequences each."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        msa = rng.integers(0, 20, (10, LENGTH))
        atoms = 4.0 * rng.normal(size=(LENGTH, 1, 3)).cumsum(0) + rng.normal(size=(LENGTH, 37, 3))
        chain = predicted_structure("scattered", msa[0], atoms, ATOM37_EXISTS[msa[0]], np.full(LENGTH, 50.0))
        folder = tmp_path / "proteins" / f"chain{seed}"
        folder.mkdir(parents=True)
        (folder / "structure.cif").write_bytes(mmcif_bytes(chain))
        rows = (f">{i}\n{letters(row.astype(np.uint8))}\n" for i, row in enumerate(msa))
        (folder / "msa.a3m").write_text("".join(rows))
    return f"data.root={tmp_path}/proteins"


@pytest.mark.nightly
def test_a_run_starts_from_published_parameters_and_folds_like_them(one_device, root, tmp_path):
    folding = [*FOLDING, root]
    train_tiny(tmp_path / "first", *folding, "steps=2")
    trained = saved_state(tmp_path / "first").ema
    weights = str(tmp_path / "params.npz")
    save_alphafold(trained, weights)

    start = f"init_from={weights}"
    train_tiny(tmp_path / "whole", *folding, "steps=3", start)
    whole = rows(tmp_path / "whole")
    # The parameters are those that were written: the evaluation before the first step is the last of the other run.
    before, after = (row for row in (whole[0], rows(tmp_path / "first")[-1]))
    assert before | {"step": 2} == after
    assert before["loss/fape_backbone"] > 0
    assert before["loss/fape_sidechain"] > 0
    assert {"loss/plddt", "structure/lddt_ca", "violation/any"} <= before.keys()
    train = [row for row in whole if row["split"] == "train"]
    assert all(math.isfinite(value) for row in train for value in row.values() if isinstance(value, float))

    # The run and its published parameters fold alike.
    (tmp_path / "query.fasta").write_text(">query\nMKVLITGAGSGIGLE\n")
    predict = ["command=predict", f"predict.input={tmp_path}/query.fasta"]
    of_run = [f"run_dir={tmp_path}/first", "predict.checkpoint=last", f"predict.out={tmp_path}/a"]
    sizes = ["model.structure.layers=2", "model.recycles=1", "data.msa_clusters=8", "data.extra_msa=8"]
    assert main([*predict, *of_run]) == 0
    assert main([*predict, *sizes, f"predict.weights={weights}", f"predict.out={tmp_path}/b"]) == 0
    folds = [(tmp_path / place / "query" / "structure.cif").read_text() for place in "ab"]
    assert folds[0] == folds[1]


def test_weights_of_another_model_are_refused_before_anything_is_compiled(tmp_path):
    config = tiny_config(tmp_path / "run", *FOLDING, "data.root=proteins")
    with pytest.raises(ConfigError, match="There is no file nowhere.npz: name AlphaFold 2's parameters"):
        published_params("nowhere.npz", config.model, {})


@pytest.mark.slow
def test_the_aligned_error_head_starts_fresh_where_the_file_has_none(tmp_path):
    without, with_head = (
        tiny_config(tmp_path, *FOLDING, "data.root=proteins", f"model.structure.aligned_error={has}")
        for has in ("false", "true")
    )
    save_alphafold(initial_params(without, jax.random.key(1)), tmp_path / "params.npz")
    fresh = initial_params(with_head, jax.random.key(2))
    params = published_params(str(tmp_path / "params.npz"), with_head.model, fresh)
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    assert params["aligned_error"] is fresh["aligned_error"]
    assert not np.array_equal(params["single"]["weights"], fresh["single"]["weights"])
