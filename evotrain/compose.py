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

from evotrain.config import Config
from evotrain.data_config import DATA_CONFIGS, MixedSetConfig
from evotrain.errors import ConfigError
from evotrain.explain import COMPOSITION_ERRORS, check_override, explain

DEFAULT_EXPERIMENT = "+experiment=quickstart"


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
    overrides = [*default_experiment(overrides), *spell_for_hydra(overrides)]
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return to_config(hydra_compose("train", overrides))
    except COMPOSITION_ERRORS as error:
        raise explain(error) from error


def default_experiment(overrides: Sequence[str]) -> list[str]:
    """The override that selects the quickstart, unless `overrides` select an experiment themselves."""
    named = any(override.split("=")[0].strip("+~") == "experiment" for override in overrides)
    return [] if named else [DEFAULT_EXPERIMENT]


def spell_for_hydra(overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra wants them: a key of a set that no file names is added."""
    return [f"++{override}" if override.startswith("data.sets.") else override for override in overrides]


def to_config(cfg: DictConfig) -> Config:
    """The frozen dataclasses of a composed configuration, with interpolations resolved.

    Raises:
      ConfigError: a mandatory value is missing.
    """
    try:
        if "sets" in cfg.data:
            # Under the names that an error will be told by.
            typed = OmegaConf.create({"data": {"sets": {name: schema(MixedSetConfig) for name in cfg.data.sets}}})
            cfg.data.sets = OmegaConf.merge(typed, {"data": {"sets": cfg.data.sets}}).data.sets
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
    named = config if isinstance(config, dict) else {item.name: getattr(config, item.name) for item in fields(config)}
    for name, value in named.items():
        if is_dataclass(value) or isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configurations differ, with both values; None where one lacks the key."""
    flat_a, flat_b = flatten(a), flatten(b)
    keys = dict.fromkeys([*flat_a, *flat_b])
    return {key: (flat_a.get(key), flat_b.get(key)) for key in keys if flat_a.get(key) != flat_b.get(key)}
