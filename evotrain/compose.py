"""From YAML and command line to a typed `Config`, and from a `Config` to the run's config.yaml and back."""

import os
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from evotrain.config import DATA_CONFIGS, Config, MeshConfig
from evotrain.errors import ConfigError
from evotrain.explain import COMPOSITION_ERRORS, check_override, explain

DEFAULT_EXPERIMENT = "+experiment=quickstart"

# What may differ between a training run and its evaluation; the rest comes from the run's own config.yaml.
EVALUATION_GROUPS = ("data", "mesh", "precision", "kernels", "evaluate")
EVALUATION_KEYS = ("command", "run_dir", "batch_size")
TRAINING_KEYS = (
    "mesh.microbatch",
    "data.workers",
    "data.prefetch",
)  # of these groups; an evaluation has no use for them
# What an example looks like to the model; other data are shown to it in the same way.
EXAMPLE_KEYS = ("data.crop", "data.msa_clusters", "data.mask_fraction")


def conf_dir() -> Path:
    """The absolute path of conf/: inside the package in an installed wheel, beside it in a checkout.

    Raises:
      ConfigError: neither is there.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise ConfigError(f"conf/train.yaml is neither in {package} nor beside it: install evotrain again.")


def register_schema() -> None:
    """Makes the typed keys known to Hydra; conf/train.yaml and conf/data/*.yaml refer to them by name."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema(Config))
    for source, cls in DATA_CONFIGS.items():
        store.store(group="schema/data", name=source, node=schema(cls))


def schema(config: Any) -> DictConfig:
    """A typed node of a frozen dataclass, or of an instance of one, that Hydra may still fill in."""
    node = OmegaConf.structured(config)
    _thaw(node)
    return node


def _thaw(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, None)  # OmegaConf marks each node of a frozen dataclass
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _thaw(child)


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration that `python -m evotrain OVERRIDES…` trains with.

    Raises:
      ConfigError: an unknown key or choice, a wrong type, or a value that is missing.
    """
    register_schema()
    for override in overrides:
        check_override(override)
    overrides = [*default_experiment(overrides), *overrides]
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return to_config(hydra_compose("train", overrides))
    except COMPOSITION_ERRORS as error:
        raise explain(error) from error


def default_experiment(overrides: Sequence[str]) -> list[str]:
    """The override that selects the quickstart, unless `overrides` select an experiment themselves."""
    named = any(override.split("=")[0].strip("+~") == "experiment" for override in overrides)
    return [] if named else [DEFAULT_EXPERIMENT]


def to_config(cfg: DictConfig) -> Config:
    """The frozen dataclasses of a composed configuration, with interpolations resolved.

    Raises:
      ConfigError: a mandatory value is missing.
    """
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    assert isinstance(config, Config), type(config)
    return config


def to_yaml(config: Config) -> str:
    """The text of the run's config.yaml, which `load_saved` reads back."""
    return OmegaConf.to_yaml(schema(config))


def load_saved(path: str | os.PathLike) -> Config:
    """The configuration that `to_yaml` spelled in the file `path`.

    Raises:
      ConfigError: there is no such file, or it is not a configuration of this version of evotrain.
    """
    try:
        saved = OmegaConf.load(path)
        node = schema(Config)
        node.data = schema(DATA_CONFIGS[saved.data.source])
        return to_config(OmegaConf.merge(node, saved))
    except FileNotFoundError:
        raise ConfigError(f"There is no {path}: name the directory of a run that has started.") from None
    except (ConfigError, OmegaConfBaseException, YAMLError, LookupError, TypeError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigError(
            f"{path} is not a configuration of this version of evotrain ({first_line}): "
            "use the version that wrote it, or another name=…."
        ) from error


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a configuration by dotted key, in the order of the schema."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configurations differ, with both values; None where one lacks the key."""
    flat_a, flat_b = flatten(a), flatten(b)
    keys = dict.fromkeys([*flat_a, *flat_b])
    return {key: (flat_a.get(key), flat_b.get(key)) for key in keys if flat_a.get(key) != flat_b.get(key)}


def config_for_evaluation(cfg: DictConfig, overrides: Sequence[str]) -> Config:
    """The configuration of `command=evaluate`: that of the run in `run_dir`, with what `overrides` change.

    An override of a whole group (`data=msa_dir`) takes the group as composed in `cfg`, but of the data the run's sizes
    of an example; one of a key takes the key.

    Raises:
      ConfigError: no run is named, it has no configuration, or an override would change what was trained.
    """
    if not any(override.startswith("run_dir=") for override in overrides):
        raise ConfigError("command=evaluate needs the run that it evaluates: write run_dir=runs/NAME.")
    trained = load_saved(Path(cfg.run_dir) / "config.yaml")
    given = {override.partition("=")[0].lstrip("+"): override for override in overrides}
    saved = schema(trained)
    saved.mesh.microbatch = MeshConfig.microbatch  # another batch_size need not be a multiple of the run's
    for key, override in given.items():
        if key in TRAINING_KEYS:
            raise ConfigError(f"{override} changes nothing in command=evaluate: leave it out.")
        if key not in EVALUATION_KEYS and key.partition(".")[0] not in EVALUATION_GROUPS:
            raise ConfigError(
                f"{override} cannot be given to command=evaluate, which takes the model from run_dir: leave it out, "
                f"or change one of {', '.join(EVALUATION_GROUPS)} or batch_size."
            )
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


def evaluation_data(overrides: Sequence[str]) -> list[str]:
    """The override that gives `command=evaluate` the data keys of the run it evaluates.

    Nothing where `overrides` choose the data themselves or name no single readable run (the evaluation will say so).
    """
    values = dict(override.split("=", 1) for override in overrides if "=" in override)
    if values.get("command") != "evaluate" or "data" in values or "run_dir" not in values:
        return []
    try:
        return [f"data={load_saved(Path(values['run_dir']) / 'config.yaml').data.source}"]
    except ConfigError:
        return []
