"""The configuration of a prediction: from AlphaFold 2's parameters, or from a run."""

from pathlib import Path

import jax
import numpy as np
import pytest

from evotrain.checks import check
from evotrain.compose import compose, schema, to_yaml
from evotrain.config import Config
from evotrain.errors import ConfigError
from evotrain.model.network import network
from evotrain.trained import config_for_use, implicit_overrides
from evotrain.weights import save_alphafold

RUN = ["model=tiny_fold", "data.crop=40", "data.msa_clusters=12"]
EXTRA, TEMPLATES = ["data.extra_msa=8"], ["model.template.blocks=1", "data.templates=3"]


def weights(tmp_path: Path, *overrides: str) -> str:
    """A file of parameters, all zero, of the model that the overrides compose."""
    path = str(tmp_path / "params.npz")
    _, shapes = network(compose([*RUN, *overrides]))
    save_alphafold(jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes), path)
    return path


def predict(*overrides: str) -> Config:
    overrides = ("command=predict", "predict.input=query.a3m", *overrides)
    cfg = schema(compose([*implicit_overrides(overrides), *overrides]))
    config = config_for_use(cfg, overrides)
    check(config, None)
    return config


def test_the_model_is_that_of_the_parameters(tmp_path):
    trained = compose([*RUN, *EXTRA, *TEMPLATES]).model
    config = predict(f"predict.weights={weights(tmp_path, *EXTRA, *TEMPLATES)}")
    for key in ("blocks", "c_m", "c_z", "msa_heads", "pair_heads", "c_outer", "c_triangle", "transition_factor"):
        assert getattr(config.model, key) == getattr(trained, key), key
    assert config.model.extra_msa == trained.extra_msa
    assert config.model.template == trained.template
    # One empty template is as good as four.
    assert (config.data.msa_clusters, config.data.extra_msa, config.data.templates) == (508, 1024, 1)
    assert config.kernels.attention == "xla_chunked"


def test_rows_that_the_parameters_have_no_use_for(tmp_path):
    path = weights(tmp_path, "model.extra_msa.blocks=0", "model.extra_msa.c_m=64", "model.extra_msa.heads=8")
    config = predict(f"predict.weights={path}")
    assert (config.data.extra_msa, config.data.templates) == (0, 0)
    for key, block in (("data.extra_msa=16", "extra_msa"), ("data.templates=4", "template")):
        with pytest.raises(ConfigError, match=f"{key} changes nothing with model.{block}.blocks=0"):
            predict(f"predict.weights={path}", key)


def test_a_run_predicts_with_its_own_sizes(tmp_path):
    trained = compose([*RUN, *EXTRA])
    (tmp_path / "config.yaml").write_text(to_yaml(trained), encoding="utf-8")
    config = predict(f"run_dir={tmp_path}", "data.msa_clusters=20", "predict.recycles=7")
    assert config.model == trained.model
    assert (config.data.msa_clusters, config.data.extra_msa, config.predict.recycles) == (20, 8, 7)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["run_dir=runs/x"], "run_dir=runs/x changes nothing with predict.weights="),
        (["predict.checkpoint=last"], "predict.checkpoint=last changes nothing with predict.weights="),
        (["data.crop=64"], "data.crop=64 changes nothing in command=predict: leave it out"),
        (["data=msa_dir", "data.root=/x"], "data=msa_dir changes nothing in command=predict: leave it out"),
        (["model.c_m=8"], "model.c_m=8 is not what"),
        (["steps=3"], "steps=3 cannot be given to command=predict"),
    ],
)
def test_what_a_prediction_has_no_use_for(tmp_path, given, sentence):
    with pytest.raises(ConfigError) as error:
        predict(f"predict.weights={weights(tmp_path, *EXTRA)}", *given)
    assert sentence in str(error.value)


MIXTURE = ["data=mixture", "data.sets.a.root=/a", "data.sets.a.weight=1"]


@pytest.mark.parametrize(
    "key",
    [
        "block_deletions=0", "block_fraction=0.1", "spatial_crop=0.5", "weigh_length=true", "weigh_cluster=true",
        "released_before=2018-04-30", "max_resolution=9", "max_repeat=0.8",
    ],
)  # fmt: skip
def test_what_an_evaluation_has_no_use_for(tmp_path, key):
    (tmp_path / "config.yaml").write_text(to_yaml(compose(RUN)), encoding="utf-8")
    of_a_set = not key.startswith(("block", "spatial"))
    for given in [["data=msa_dir", "data.root=/x", f"data.{key}"], *([[*MIXTURE, f"data.sets.a.{key}"]] * of_a_set)]:
        overrides = ["command=evaluate", f"run_dir={tmp_path}", *given]
        with pytest.raises(ConfigError) as error:
            config_for_use(schema(compose(overrides)), overrides)
        assert str(error.value) == f"{given[-1]} changes nothing in command=evaluate: leave it out."


def test_an_evaluation_chooses_what_is_held_out(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(compose(RUN)), encoding="utf-8")
    overrides = ["command=evaluate", f"run_dir={tmp_path}", *MIXTURE, "data.sets.a.min_plddt=50"]
    config = config_for_use(schema(compose(overrides)), overrides)
    assert (config.data.sets["a"].min_plddt, config.data.crop) == (50, 40)


def test_nothing_trained_is_named():
    with pytest.raises(ConfigError, match=r"write run_dir=runs/NAME, or predict.weights=params.npz"):
        predict()
