"""The configuration of the commands that use what was trained: `evaluate` and `predict`.

The model comes from a run's config.yaml, or from the names in AlphaFold 2's published parameters; the command line
changes what is done with it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evotrain.compose import load_saved, schema, to_config
from evotrain.config import Config, MeshConfig
from evotrain.errors import ConfigError
from evotrain.explain import explain
from evotrain.limits import SET_OF_MIXTURE
from evotrain.published import infer_model

# What may differ between a training run and the use of what it trained; the rest comes from the run's own config.yaml.
GROUPS = ("data", "mesh", "precision", "kernels")
KEYS = {"evaluate": ("command", "run_dir", "batch_size"), "predict": ("command", "run_dir", "seed")}
# Of these groups, but of no use outside of training. A key of data is also one of each set of a mixture.
TRAINING_KEYS = (
    "mesh.microbatch",
    "data.workers",
    "data.prefetch",
    "data.block_deletions",
    "data.block_fraction",
    "data.spatial_crop",
    "data.released_before",
    "data.max_resolution",
    "data.max_repeat",
    "data.weigh_length",
    "data.weigh_cluster",
)
# What an example looks like to the model; other data are shown to it in the same way.
EXAMPLE_KEYS = ("data.crop", "data.msa_clusters", "data.extra_msa", "data.templates", "data.mask_fraction")
# A prediction takes its residues and rows from its input: of the data it needs no more than these.
PREDICT_DATA_KEYS = ("data.msa_clusters", "data.extra_msa", "data.templates", "data.mask_fraction")
# How AlphaFold 2's parameters are used where the command line says nothing else. Without templates one empty one is
# as good as four.
PUBLISHED = {"model": "af2", "kernels": "xla_chunked", "data.msa_clusters": 508, "data.extra_msa": 1024}

UNTOLD = ("model.recycles", "model.structure.layers")  # of the model, what parameters do not tell


def implicit_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides that a command takes from what it uses, unless `overrides` say it themselves.

    `command=evaluate` takes the kind of data of its run; `command=predict` the model that published parameters are of;
    `command=prepare` proteins from files.
    Nothing where no single readable run or file is named (the command will say so).
    """
    values = dict(override.split("=", 1) for override in overrides if "=" in override)
    if values.get("command") == "prepare" and "data" not in values:
        return ["data=msa_dir"]
    if values.get("command") not in KEYS:
        return []
    if values["command"] == "predict" and "predict.weights" in values:
        return [f"{key}={value}" for key, value in PUBLISHED.items() if key not in values]
    if "data" in values or "run_dir" not in values:
        return []
    try:
        return [f"data={load_saved(Path(values['run_dir']) / 'config.yaml').data.source}"]
    except ConfigError:
        return []


def config_for_use(cfg: DictConfig, overrides: Sequence[str]) -> Config:
    """The configuration of `command=evaluate` and `command=predict`: that of a run, with what `overrides` change.

    An override of a whole group (`data=msa_dir`) takes the group as composed in `cfg`, but of the data the run's sizes
    of an example; one of a key takes the key.

    Raises:
      ConfigError: nothing trained is named, it cannot be read, or an override would change what was trained.
    """
    given = {override.partition("=")[0].lstrip("+"): override for override in overrides}
    if cfg.command == "predict" and cfg.predict.weights is not None:
        return _published(cfg, given)
    if "run_dir" not in given:
        weights = ", or predict.weights=params.npz" if cfg.command == "predict" else ""
        raise ConfigError(f"command={cfg.command} needs the run that it uses: write run_dir=runs/NAME{weights}.")
    trained = load_saved(Path(cfg.run_dir) / "config.yaml")
    saved = schema(trained)
    saved.mesh.microbatch = MeshConfig.microbatch  # another batch_size need not be a multiple of the run's
    for key, override in given.items():
        _check(cfg.command, key, override, "run_dir")
        try:
            # A group's node goes as a whole, whatever the kind of data of the run was; a value is checked by its type.
            OmegaConf.update(saved, key, OmegaConf.select(cfg, key), merge=False)
        except OmegaConfBaseException as error:
            raise explain(error) from error
    for key in EXAMPLE_KEYS:
        name = key.partition(".")[2]
        if "data" in given and key not in given and name in saved.data and hasattr(trained.data, name):
            saved.data[name] = getattr(trained.data, name)
    return to_config(saved)


def _published(cfg: DictConfig, given: dict[str, str]) -> Config:
    """The configuration to predict with AlphaFold 2's parameters: `cfg`, its parts of the model as in the file."""
    for key, override in given.items():
        if key in ("run_dir", "predict.checkpoint"):
            raise ConfigError(
                f"{override} changes nothing with predict.weights={cfg.predict.weights}: leave one of them out."
            )
        if key.partition(".")[0] != "model":
            _check("predict", key, override, "predict.weights")
    for name, value in infer_model(cfg.predict.weights).items():
        key = f"model.{name}"
        if key in given and key in UNTOLD:
            continue
        if key in given and OmegaConf.select(cfg, key) != value:
            raise ConfigError(f"{given[key]} is not what {cfg.predict.weights} holds ({key}={value}): leave it out.")
        OmegaConf.update(cfg, key, value)
    config = to_config(cfg)
    data, model = config.data, config.model
    if model.template.blocks and not data.templates:
        data = replace(data, templates=1)
    if not model.extra_msa.blocks and "data.extra_msa" not in given:
        data = replace(data, extra_msa=0)
    return replace(config, data=data)


def _check(command: str, key: str, override: str, source: str) -> None:
    """Refuses an override that a command has no use for."""
    of_no_use = command == "predict" and key.partition(".")[0] == "data" and key not in PREDICT_DATA_KEYS
    if SET_OF_MIXTURE.sub("data.", key) in TRAINING_KEYS or of_no_use:
        raise ConfigError(f"{override} changes nothing in command={command}: leave it out.")
    groups = (*GROUPS, command)
    if key not in KEYS[command] and key.partition(".")[0] not in groups:
        raise ConfigError(
            f"{override} cannot be given to command={command}, which takes the model from {source}: leave it out, or "
            f"change one of {', '.join(groups)} or {KEYS[command][-1]}."
        )
