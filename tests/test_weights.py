"""AlphaFold 2's published parameters: every name is used, none is left over, a mistake is one sentence."""

from dataclasses import replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import random_params

from evotrain.compose import compose
from evotrain.config import ExtraMSAConfig, ModelConfig, StructureConfig, TemplateConfig
from evotrain.errors import ConfigError
from evotrain.model.layers import Policy
from evotrain.model.network import AlphaFold
from evotrain.published import infer_model
from evotrain.published_names import PREFIX
from evotrain.tree_names import named_leaves
from evotrain.weights import load_alphafold, save_alphafold

CONFIG = ModelConfig(
    blocks=2,
    c_m=8,
    c_z=6,
    msa_heads=2,
    pair_heads=3,
    c_outer=5,
    c_triangle=7,
    transition_factor=2,
    recycles=1,
    extra_msa=ExtraMSAConfig(blocks=1, c_m=10, heads=2),
    template=TemplateConfig(blocks=1, c_t=6, heads=3, transition_factor=3),
    structure=StructureConfig(layers=2, c_s=14, heads=3, c_sidechain=9, c_confidence=11, aligned_error=True),
)
TRUNK = replace(CONFIG, recycles=0, extra_msa=ExtraMSAConfig(), template=TemplateConfig(), structure=StructureConfig())
Arrays = dict[str, Any]


def params_of(config: ModelConfig) -> Arrays:
    network = nnx.eval_shape(lambda: AlphaFold(config, policy=Policy(), rngs=nnx.Rngs(0)))
    return jax.tree.map(np.float32, random_params(nnx.to_pure_dict(nnx.state(network, nnx.Param))))


@pytest.fixture(scope="module")
def params() -> Arrays:
    return params_of(CONFIG)


@pytest.fixture
def published(params: Arrays) -> Arrays:
    return save_alphafold(params)


@pytest.mark.parametrize("name", ["model_1", "model_1_ptm", "model_3", "model_3_ptm"])
def test_every_published_name_is_used_and_none_is_left_over(name: str):
    pytest.importorskip("alphafold", reason="the reference, DeepMind's code, is in the extra `test`")
    from alphafold_reference import published_params

    # As conf/model/af2.yaml says: models 3 to 5 have no templates, the _ptm models predict the aligned error.
    blocks, aligned_error = 2 * name.startswith("model_1"), str(name.endswith("_ptm")).lower()
    overrides = [f"model.template.blocks={blocks}", f"model.structure.aligned_error={aligned_error}"]
    model = compose(["+experiment=af2_initial", "data.root=proteins", *overrides]).model
    tree = published_params(name, model)
    assert shapes(save_alphafold(load_alphafold(tree, model))) == shapes(
        {f"{module}//{parameter}": x for module, below in tree.items() for parameter, x in below.items()}
    )
    found = infer_model(tree)
    assert (found.pop("msa_head_dim"), found.pop("pair_head_dim")) == (32, 32)
    assert found == {key: reduce(getattr, key.split("."), model) for key in found}


def test_reading_what_was_written_gives_the_same_bits(params, tmp_path):
    path = tmp_path / "params.npz"
    written = save_alphafold(jax.tree.map(jnp.asarray, params), path)
    nested: Arrays = {}
    for name, x in written.items():
        module, parameter = name.split("//")
        nested.setdefault(module, {})[parameter] = x
    for source in (path, nested):
        assert_same(load_alphafold(source, CONFIG), params)
    assert [file.name for file in tmp_path.iterdir()] == ["params.npz"]


def test_other_kinds_of_float_are_read_as_float32(params):
    half = {name: x.astype(np.float16) for name, x in save_alphafold(params).items()}
    assert_same(load_alphafold(half, CONFIG), jax.tree.map(lambda x: np.float32(np.float16(x)), params))


def test_a_trunk_alone_is_written_and_read():
    params = params_of(TRUNK)
    assert_same(load_alphafold(save_alphafold(params), TRUNK), params)


def test_the_model_is_read_off_the_parameters(published):
    assert infer_model(published) == {
        "blocks": 2,
        "c_m": 8,
        "c_z": 6,
        "msa_heads": 2,
        "msa_head_dim": 4,
        "pair_heads": 3,
        "pair_head_dim": 2,
        "c_outer": 5,
        "c_triangle": 7,
        "transition_factor": 2,
        "position": "clipped",
        "recycles": 3,  # which parameters do not tell, as the layers of the structure module
        "extra_msa.blocks": 1,
        "extra_msa.c_m": 10,
        "extra_msa.heads": 2,
        "template.blocks": 1,
        "template.c_t": 6,
        "template.heads": 3,
        "template.transition_factor": 3,
        "template.angles": True,
        "structure.layers": 8,
        "structure.c_s": 14,
        "structure.heads": 3,
        "structure.scalar_dim": 16,
        "structure.query_points": 4,
        "structure.value_points": 8,
        "structure.c_sidechain": 9,
        "structure.c_confidence": 11,
        "structure.aligned_error": True,
    }


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ({"blocks": 3}, "model.blocks=2 (here 3): write this."),
        (
            {"c_outer": 4, "msa_head_dim": 3},
            "model.msa_head_dim=4 (here 3), model.c_outer=5 (here 4): write these.",
        ),
        ({"position": "sinusoidal"}, "model.position=clipped (here sinusoidal): write this."),
        ({"recycles": 0}, "model.recycles=3 (here 0): write this."),
        ({"template": replace(CONFIG.template, blocks=0)}, "model.template.blocks=1 (here 0): write this."),
        ({"structure": replace(CONFIG.structure, layers=0)}, "model.structure.layers=8 (here 0): write this."),
        (
            {"structure": replace(CONFIG.structure, aligned_error=False)},
            "model.structure.aligned_error=true (here false): write this.",
        ),
    ],
)
def test_another_model_is_told_by_its_keys(published, model, listed):
    assert refused(published, replace(CONFIG, **model)) == f"The tree of parameters is of a model with {listed}"


def test_a_model_without_templates_does_not_fit_one_with_them(params):
    without = {name: below for name, below in params.items() if not name.startswith("template")}
    assert "model.template.blocks=0 (here 1)" in refused(save_alphafold(without), CONFIG)


NORM = "evoformer/prev_pair_norm//scale"


def test_a_missing_name(published):
    del published[PREFIX + NORM]
    assert refused(published, CONFIG).startswith(f"The tree of parameters lacks {NORM}, which the model reads")


def test_a_missing_name_that_tells_the_model(published):
    del published[f"{PREFIX}evoformer/preprocess_1d//bias"]
    assert "lacks evoformer/preprocess_1d//bias, which every AlphaFold 2 has" in refused(published, CONFIG)


def test_a_wrong_shape(published):
    published[PREFIX + NORM] = np.ones(4, np.float32)
    assert f"has {NORM} in the shape (4,), but the model needs (6,)" in refused(published, CONFIG)


def test_names_left_over(published):
    published |= {f"{PREFIX}evoformer/extra//bias": np.ones(1), f"{PREFIX}evoformer/extra//weights": np.ones(1)}
    assert "has evoformer/extra//bias and 1 more, which AlphaFold 2 lacks" in refused(published, CONFIG)


def test_parameters_of_another_network(published):
    multimer = {f"{PREFIX}evoformer/~_relative_encoding/position_activations//bias": np.ones(1)}
    assert "holds parameters of AlphaFold-Multimer" in refused(published | multimer, CONFIG)
    assert "has model//weights, but AlphaFold 2's parameters begin with" in refused(
        {"model//weights": np.ones(1)}, CONFIG
    )


def test_files_that_cannot_be_read(tmp_path, params):
    missing, broken, text, array = (tmp_path / name for name in ("missing.npz", "broken.npz", "text.npz", "array.npy"))
    np.save(array, np.ones(1))
    save_alphafold(params, broken)
    broken.write_bytes(broken.read_bytes()[:1000])
    text.write_text("no parameters")
    assert refused(missing, CONFIG).startswith(f"There is no file {missing}")
    for path in (broken, text, array, tmp_path):
        assert refused(path, CONFIG).startswith(f"{path} cannot be read as an .npz file")


def test_parameters_that_alphafold_lacks_are_not_written():
    with pytest.raises(ConfigError, match="^encoder/weights is not a parameter of AlphaFold 2"):
        save_alphafold({"encoder": {"weights": np.ones(1)}})


def refused(source: Any, config: ModelConfig) -> str:
    """The sentence with which the parameters are refused."""
    with pytest.raises(ConfigError) as error:
        load_alphafold(source, config)
    sentence = str(error.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: x.shape for name, x in arrays.items()}


def assert_same(loaded: Arrays, params: Arrays) -> None:
    loaded, params = named_leaves(loaded), named_leaves(params)
    assert loaded.keys() == params.keys()
    for name, x in params.items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], x)
