"""The typed configuration: composition, saving, comparison, the rules across keys, and every sentence for a mistake."""

import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from evotrain.checks import check, resolve_mesh
from evotrain.compose import (
    compose,
    conf_dir,
    differences,
    load_saved,
    schema,
    to_yaml,
)
from evotrain.config import BEST_MODES, Config, MeshConfig, best_mode
from evotrain.data_config import DATA_CONFIGS, MixedSetConfig
from evotrain.errors import ConfigError
from evotrain.limits import AT_LEAST, AT_MOST, INTERVALS, SWITCHED_OFF
from evotrain.trained import config_for_use


def schema_keys() -> dict[str, Any]:
    """Every key of the schema, those of all kinds of data included, with its field."""
    keys: dict[str, Any] = {}

    def visit(cls: Any, prefix: str) -> None:
        for item in fields(cls):
            if is_dataclass(item.type):
                keys[prefix + item.name] = item
                visit(item.type, f"{prefix}{item.name}.")
            else:
                keys[prefix + item.name] = item

    visit(Config, "")
    for cls in (*DATA_CONFIGS.values(), MixedSetConfig):
        visit(cls, "data.")
    return keys


def test_every_key_says_what_it_means():
    for key, item in schema_keys().items():
        assert item.metadata["meaning"].strip(), key


def test_every_number_has_a_range():
    for key, item in schema_keys().items():
        if item.type in (int, int | None):
            assert key in AT_LEAST, key
        if item.type in (float, float | None):
            assert key in INTERVALS, key
    switches = {switch for switch, _ in SWITCHED_OFF.values()}
    assert {*AT_LEAST, *AT_MOST, *INTERVALS, *SWITCHED_OFF, *switches} <= set(schema_keys())


def test_quickstart_is_the_default():
    assert compose() == compose(["+experiment=quickstart"])
    assert compose().run_dir == "runs/quickstart"


def test_an_override_wins_over_the_experiment():
    config = compose(["+experiment=notebook", "model=small", "steps=7"])
    assert (config.steps, config.model.blocks) == (7, 1)  # the experiment's blocks stay: it sets them itself
    assert config.model.msa_dropout == 0.15


def test_the_kind_of_data_selects_its_keys():
    assert compose(["data=msa_dir", "data.root=x"]).data.root == "x"
    assert not hasattr(compose().data, "root")


def test_composition_and_checks_do_not_import_jax():
    program = (
        "import sys; from evotrain.checks import check; from evotrain.compose import compose; import evotrain.cli; "
        "check(compose(), 1); print('jax' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("overrides", [[], ["data=msa_dir", "data.root=/x"], ["+experiment=notebook"]])
def test_saved_configuration_is_read_back(tmp_path, overrides):
    config = compose([*overrides, "resume_allow=[steps]", "optimizer.decay_examples=null"])
    save(config, tmp_path)
    assert load_saved(tmp_path / "config.yaml") == config


def test_saved_configuration_that_cannot_be_read(tmp_path):
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match=r"There is no .*config.yaml: name the directory of a run"):
        load_saved(path)
    for text in ("", "a: [", "data: {source: other}", "data: {source: msa_dir}\nzz: 3"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not a configuration of this version of evotrain"):
            load_saved(path)


def test_differences_name_both_values():
    a, b = compose(), compose(["optimizer.lr=1", "data=msa_dir", "data.root=/x"])
    found = differences(a, b)
    assert found["optimizer.lr"] == (a.optimizer.lr, 1.0)
    assert found["data.root"] == (None, "/x")
    assert "steps" not in found
    assert differences(a, a) == {}


# --- evaluation --------------------------------------------------------------------------------------------------


def save(config: Config, run_dir: Path) -> None:
    (run_dir / "config.yaml").write_text(to_yaml(config), encoding="utf-8")


def evaluate(run_dir, *overrides: str) -> Config:
    overrides = ("command=evaluate", f"run_dir={run_dir}", *overrides)
    return config_for_use(schema(compose(overrides)), overrides)


def test_evaluation_takes_the_run_and_its_own_overrides(tmp_path):
    trained = compose(["model=small", "data.crop=32", "seed=5"])
    save(trained, tmp_path)
    config = evaluate(tmp_path, "evaluate.checkpoint=last", "data.eval_examples=7", "batch_size=4")
    assert config.model == trained.model
    assert (config.seed, config.data.crop) == (5, 32)
    assert (config.data.eval_examples, config.batch_size, config.evaluate.checkpoint) == (7, 4, "last")
    assert (config.command, config.run_dir) == ("evaluate", str(tmp_path))


def test_evaluation_on_other_data_takes_the_whole_group(tmp_path):
    sizes = ["data.crop=40", "data.msa_clusters=16", "data.mask_fraction=0.2"]
    save(compose([*sizes, "data.eval_examples=3"]), tmp_path)
    other = ["data=msa_dir", "data.root=/x"]
    assert evaluate(tmp_path, *other).data == compose([*other, *sizes]).data
    wider = [*other, "data.crop=48"]
    assert evaluate(tmp_path, *wider).data == compose([*other, *sizes, "data.crop=48"]).data


def test_evaluation_fits_another_batch_size(tmp_path):
    save(compose(["mesh.microbatch=4", "data.crop=20"]), tmp_path)
    config = evaluate(tmp_path, "batch_size=2", "data.crop=16")
    check(config, 1)
    save(compose(["checkpoint.best=contact/precision_at_L"]), tmp_path)
    check(evaluate(tmp_path, "data.crop=16"), 1)  # an evaluation names no best checkpoint


def test_evaluation_refuses_to_change_what_was_trained(tmp_path):
    save(compose(), tmp_path)
    for override in ("model.blocks=9", "target=h100_1", "logger.every=3", "debug=nans"):
        with pytest.raises(ConfigError, match=f"{override} cannot be given to command=evaluate"):
            evaluate(tmp_path, override)
    for override in ("mesh.microbatch=2", "data.workers=2", "data.prefetch=2"):
        with pytest.raises(ConfigError, match=f"{override} changes nothing in command=evaluate: leave it out"):
            evaluate(tmp_path, override)
    with pytest.raises(ConfigError, match="write run_dir=runs/NAME"):
        config_for_use(schema(compose()), ["command=evaluate"])


# --- mistakes in composition -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimizer.lrr=3", "no key optimizer.lrr; did you mean optimizer.lr? The keys of optimizer are lr, b1"),
        ("zz=1", "There is no key zz. The keys are command, name, run_dir"),
        ("modle=tiny", "There is no key modle; did you mean model?"),
        ("+zz=3", "There is no key zz."),
        ("+data.zz=3", "There is no key data.zz. The keys of data are source, crop"),
        ("+model.zz.y=3", "There is no key model.zz. The keys of model are"),
        ("model.blocks.x=3", "model.blocks is a single value, nothing is inside it"),
        ("+model.blocks.x=3", "model.blocks is a single value, nothing is inside it"),
        ("++data.root=3", "++data.root=3 sets a key that exists already: write data.root=3, without the plus"),
        ("+model=small", "write model=small, without the plus"),
        ("~model", "~model would delete model, but every key has a value"),
        ("data.root=/x", "data.root is a key of data=msa_dir: select that too"),
        ("model=tyny", "There is no model=tyny; did you mean tiny? The choices are af2, small, tiny, tiny_fold."),
        ("target=v5e_17", "There is no target=v5e_17. There are v5e_1, v5e_4, v5e_8, v5e_16, v5e_32, v5e_64, v5e_128,"),
        ("target=h200_8", "There is no target=h200_8. There are a100_1, b200_8, h100_1, tpu7x_1, "),
        ("model=3", "model=3 is not the name of a choice: write model=NAME"),
        ("model={blocks: 3}", "is not the name of a choice: write model=NAME"),
        ("model@x=tiny", "places are fixed: leave out the @"),
        ("+experiment=notebok", "no +experiment=notebok; did you mean notebook? The choices are af2_finetune, af2_ini"),
        ("experiment=notebook", "write +experiment=notebook"),
        ("+sweep=nope", "There is no +sweep=nope. The choices are difficulty, lr, ray, seeds, slurm."),
        ("steps=abc", "steps=abc has the wrong type: steps takes a whole number (optimizer steps of the whole run)"),
        ("optimizer.lr=fast", "optimizer.lr takes a number (learning rate"),
        ("logger.figures=maybe", "logger.figures takes true or false (draw figures"),
        ("model.blocks=null", "model.blocks=null has the wrong type: model.blocks takes a whole number"),
        ("model.msa_head_dim=x", "takes a whole number or null"),
        ("model.init=[1]", "model.init=[1] has the wrong type: model.init takes a text"),
        ("resume_allow=3", "resume_allow takes a list such as [seed,steps]"),
        ("data=msa_dir", "data.root has no value (directory of alignments and structures"),
        ("run_dir=${nme}", "run_dir refers to something that does not exist: Interpolation key 'nme' not found."),
        ("steps", "'steps' is not an override: write key=value"),
        ("=3", "'=3' is not an override: write key=value"),
        ("steps=[1", "'steps=[1' cannot be read as key=value: put quotes around"),
        ("hydra/launcher=submitit_moon", "submitit_moon is not installed: pip install 'evotrain[sweep]'"),
        ("hydra.foo=1", "There is no key hydra.foo"),
    ],
)  # fmt: skip
def test_a_mistake_in_composition_is_one_sentence(override, sentence):
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


# --- rules across keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "devices", "sentence"),
    [
        (["model.init=zero"], 1, "There is no model.init=zero. The choices are af2, lecun."),
        (["command=trian"], 1, "There is no command=trian; did you mean train?"),
        (["steps=0"], 1, "steps=0 is too small: write 1 or more"),
        (["seed=4294967296"], 1, "seed=4294967296 is too large: write 4294967295 or less"),
        (["mesh.data=-2"], 1, "mesh.data=-2 is too small"),
        (["optimizer.ema_decay=1"], 1, "optimizer.ema_decay=1.0 is out of range: write a number in [0, 1)"),
        (["optimizer.lr=nan"], 1, "optimizer.lr=nan is out of range: write a number in (0, inf)"),
        (["optimizer.eps=0"], 1, "optimizer.eps=0.0 is out of range"),
        (["data.mask_fraction=1.5"], 1, "data.mask_fraction=1.5 is out of range: write a number in (0, 1]"),
        (["evaluate.examples=3"], 1, "evaluate.examples changes nothing in command=train: leave it out, or write comm"),
        (["evaluate.checkpoint=newest"], 1, "evaluate.checkpoint changes nothing in command=train"),
        (["command=evaluate", "evaluate.checkpoint=newest"], 1, "write best, last, or the number of a step"),
        (["resume_allow=[stepps]"], 1, "resume_allow names stepps, which is not a key; did you mean steps?"),
        (["name=''"], 1, "name is empty: write name="),
        (["name=../mine"], 1, "name=../mine leads out of runs/: write a plain name, and the place as run_dir="),
        (["name=/mine"], 1, "name=/mine leads out of runs/"),
        (["model.loss.masked_msa=0", "model.loss.distogram=0"], 1, "leaves nothing to learn: raise one of them"),
        (["optimizer.clip=none", "optimizer.clip_norm=1"], 1, "optimizer.clip_norm=1.0 changes nothing with opt"),
        (["optimizer.decay_factor=0.5"], 1, "changes nothing with optimizer.decay_examples=null: leave it out"),
        (["logger=files", "logger.project=x"], 1, "logger.project=x changes nothing with logger.wandb=off: leave"),
        (["logger=files", "logger.entity=x"], 1, "logger.entity=x changes nothing with logger.wandb=off"),
        (["logger=files", "logger.timeout=9"], 1, "logger.timeout=9 changes nothing with logger.wandb=off"),
        (["data=synthetic", "model.position=sinusoidal"], 1, "changes nothing with data.source=synthetic: leave it"),
        (["model=tiny_fold"], 1, "model.structure.layers=4 has nothing to learn from data=coevolution, which makes C"),
        (["model.extra_msa.blocks=1"], 1, "needs rows to read, but data.extra_msa=0: write data.ex"),
        (["model.template.blocks=2"], 1, "needs rows to read, but data.templates=0: write data.templates=…, or"),
        (["data.extra_msa=8"], 1, "data.extra_msa=8 changes nothing with model.extra_msa.blocks=0: leave it out"),
        (["data.templates=4"], 1, "data.templates=4 changes nothing with model.template.blocks=0: leave it out"),
        (["model.structure.c_s=8"], 1, "model.structure.c_s=8 changes nothing with model.structure.layers=0: leave"),
        (["model.loss.chi=1"], 1, "model.loss.chi=1.0 changes nothing with model.structure.layers=0: leave it out"),
        (["model.loss.aligned_error=1"], 1, "changes nothing with model.structure.aligned_error=false: leave it"),
        (["data=synthetic", "model.recycles=1"], 1, "model.recycles=1 changes nothing with data.source=synthetic"),
        (["model.extra_msa.heads=7"], 1, "model.extra_msa.c_m=64 cannot be split over model.extra_msa.heads=7"),
        (["checkpoint.best=structure/lddt_ca"], 1, "has no checkpoint.best=structure/lddt_ca"),
        (
            ["data=msa_dir", "data.root=/x", "data.only=y", "data.eval_fraction=0.5"],
            1,
            "data.eval_fraction=0.5 changes nothing with data.only=y: leave one of them out",
        ),
        (["predict.recycles=9"], 1, "predict.recycles changes nothing in command=train: leave it out, or write co"),
        (["command=predict", "predict.checkpoint=new"], 1, "predict.checkpoint=new: write best, last, or the number"),
        (
            ["model=tiny_fold", "data=msa_dir", "data.root=x", "data.extra_msa=8", "model.structure.aligned_error=1"],
            1,
            "model.loss.aligned_error=0 would leave that head untrained: write model.loss.aligned_error=0.1",
        ),
        (["model.c_m=31"], 1, "model.c_m=31 cannot be split over model.msa_heads=2"),
        (["model.pair_heads=5"], 1, "model.c_z=32 cannot be split over model.pair_heads=5: make it a multiple, or wri"),
        (["precision.compute=bfloat16"], 1, "precision.matmul=highest changes nothing where matrices are bfloat16"),
        (["kernels.chunk_rows=4"], 1, "kernels.chunk_rows=4 changes nothing with kernels.attention=xla"),
        (["kernels.attention=xla_chunked"], 1, "kernels.attention=xla_chunked needs kernels.chunk_rows"),
        (["kernels=cueq"], 1, "multiplies float32 matrices in TF32, not as precision.matmul=highest asks"),
        (["kernels=cueq", "kernels.chunk_rows=4"], 1, "changes nothing with kernels.attention=cueq: leave it out"),
        (["kernels=cueq", "precision=bf16", "model.pair_head_dim=12"], 1, "pair heads have 12: write model."),
        (["kernels=cueq", "precision=bf16", "model.msa_head_dim=256"], 1, "at most 128 channels, a multiple of 8, but"),
        (["kernels=cueq", "precision.matmul=default", "model.msa_head_dim=64"], 1, "float32 takes heads of at most 32"),
        (["kernels=cueq", "precision.matmul=high", "model.pair_head_dim=6"], 1, "multiple of 4, but the pair heads"),
        (["optimizer.decay_examples=5"], 1, "optimizer.decay_examples=5 is before the end of the warm-up"),
        (["checkpoint.best=los"], 1, "has no checkpoint.best=los; did you mean loss?"),
        (["data=synthetic", "checkpoint.best=masked_msa/accuracy"], 1, "The choices are loss."),
        (["checkpoint.best=contact/precision_at_L", "data.crop=24"], 1, "write data.crop=25 or more, or checkpoint."),
        (["mesh.data=3"], 8, "mesh.data=3 mesh.fsdp=1 mesh.context=1 needs 3 devices, but there are 8"),
        (["mesh.context=3"], 8, "needs a multiple of 3 devices, but there are 8"),
        (["mesh.data=2"], 1, "needs 2 devices, but there is 1: change the mesh"),
        (["mesh.fsdp=-1"], 8, "only one axis can take the rest; give data or fsdp a size"),
        (["mesh.fsdp=0"], 8, "an axis has at least 1 device"),
        (["batch_size=12"], 8, "split over mesh.data × mesh.fsdp = 8 × 1 devices: write batch_size=8"),
        (["batch_size=16", "mesh.microbatch=3"], 4, "mesh.microbatch=3 does not divide a device's 4 examples"),
        (["batch_size=4"], 8, "batch_size=4 cannot be split over mesh.data × mesh.fsdp = 8 × 1 devices: write batch_"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_run_is_one_sentence(overrides, devices, sentence):
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides), devices)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rules_of_the_mesh_wait_for_the_devices():
    config = compose(["mesh.data=3"])
    check(config, None)
    with pytest.raises(ConfigError):
        check(config, 8)


@pytest.mark.parametrize(
    ("sizes", "resolved"),
    [((-1, 1, 1), (8, 1, 1)), ((1, -1, 4), (1, 2, 4)), ((2, 2, 2), (2, 2, 2)), ((2, 1, -1), (2, 1, 4))],
)
def test_mesh_takes_the_rest(sizes, resolved):
    data, fsdp, context = sizes
    mesh = resolve_mesh(MeshConfig(data=data, fsdp=fsdp, context=context), 8)
    assert (mesh.data, mesh.fsdp, mesh.context) == resolved


def test_where_several_processes_run_none_is_told_to_simulate_devices():
    config = compose(["mesh.data=8"])
    with pytest.raises(ConfigError, match="start another number of processes") as refused:
        check(config, 2, processes=2)
    assert "simulate" not in str(refused.value)
    with pytest.raises(ConfigError, match="write mesh.simulate=8"):
        check(config, 2)


@pytest.mark.parametrize("metric", BEST_MODES)
def test_each_metric_can_name_the_best(metric):
    folding = (
        ["model=tiny_fold", "data=msa_dir", "data.root=x", "data.extra_msa=8"]
        if metric.startswith("structure/")
        else []
    )
    check(compose([*folding, f"checkpoint.best={metric}"]), 1)
    assert best_mode(metric) == BEST_MODES[metric]


def test_configuration_is_frozen_and_has_no_interpolation_left():
    config = compose()
    with pytest.raises(AttributeError):
        config.steps = 3
    assert "${" not in OmegaConf.to_yaml(schema(replace(config)))
    assert conf_dir().is_absolute()
