"""Training runs of the whole network in small: it starts from published parameters, trains, and resumes to the bit."""

import math

import jax
import numpy as np
import pytest
from tiny_run import SIZES, assert_same_bits, rows, saved_state, tiny_config, train_tiny

from evotrain.cli import main
from evotrain.errors import ConfigError
from evotrain.model.network import initial_params
from evotrain.resume import published_params
from evotrain.weights import save_alphafold

FOLDING = [
    *SIZES, "model.recycles=1", "model.extra_msa.blocks=1", "model.extra_msa.c_m=8", "model.extra_msa.heads=2",
    "model.template.blocks=1", "model.template.c_t=8", "model.template.heads=2", "model.structure.layers=2",
    "model.structure.c_s=16", "model.structure.heads=2", "model.structure.c_sidechain=8",
    "model.structure.c_confidence=8", "data.extra_msa=8", "data.templates=2", "eval_every=2",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_starts_from_published_parameters_and_resumes(one_device, tmp_path):
    train_tiny(tmp_path / "first", *FOLDING, "steps=2")
    trained = saved_state(tmp_path / "first").ema
    weights = str(tmp_path / "params.npz")
    save_alphafold(trained, weights)

    start = f"init_from={weights}"
    train_tiny(tmp_path / "whole", *FOLDING, "steps=4", start)
    whole = rows(tmp_path / "whole")
    # The parameters are those that were written: the evaluation before the first step is the last of the other run.
    before, after = (row for row in (whole[0], rows(tmp_path / "first")[-1]))
    assert before | {"step": 2} == after
    assert {"loss/fape_backbone", "loss/plddt", "structure/lddt_ca", "violation/any"} <= before.keys()
    train = [row for row in whole if row["split"] == "train"]
    assert all(math.isfinite(value) for row in train for value in row.values() if isinstance(value, float))

    # The run and its published parameters fold alike.
    (tmp_path / "query.fasta").write_text(">query\nMKVLITGAGSGIGLE\n")
    predict = ["command=predict", f"predict.input={tmp_path}/query.fasta"]
    of_run = [f"run_dir={tmp_path}/first", "predict.checkpoint=last", f"predict.out={tmp_path}/a"]
    sizes = ["model.structure.layers=2", "model.recycles=1", "data.msa_clusters=8", "data.extra_msa=8"]
    assert (
        main([*predict, *of_run])
        == main([*predict, *sizes, f"predict.weights={weights}", f"predict.out={tmp_path}/b"])
        == 0
    )
    folds = [(tmp_path / place / "query" / "structure.cif").read_text() for place in "ab"]
    assert folds[0] == folds[1]

    # Stopped half-way and started again.
    train_tiny(tmp_path / "resumed", *FOLDING, "steps=2", start)
    train_tiny(tmp_path / "resumed", *FOLDING, "steps=4", start)
    assert rows(tmp_path / "resumed") == whole
    assert_same_bits(saved_state(tmp_path / "resumed"), saved_state(tmp_path / "whole"))


def test_weights_of_another_model_are_refused_before_anything_is_compiled(tmp_path):
    config = tiny_config(tmp_path / "run", *FOLDING)
    with pytest.raises(ConfigError, match="There is no file nowhere.npz: name AlphaFold 2's parameters"):
        published_params("nowhere.npz", config.model, {})


@pytest.mark.slow
def test_the_aligned_error_head_starts_fresh_where_the_file_has_none(tmp_path):
    without, with_head = (
        tiny_config(tmp_path, *FOLDING, f"model.structure.aligned_error={has}") for has in ("false", "true")
    )
    save_alphafold(initial_params(without, jax.random.key(1)), tmp_path / "params.npz")
    fresh = initial_params(with_head, jax.random.key(2))
    params = published_params(str(tmp_path / "params.npz"), with_head.model, fresh)
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    assert params["aligned_error"] is fresh["aligned_error"]
    assert not np.array_equal(params["single"]["weights"], fresh["single"]["weights"])
