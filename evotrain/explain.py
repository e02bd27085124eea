"""What Hydra and OmegaConf object to, in one sentence that names the key, the choices and what to write instead."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import FrozenInstanceError, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import YAMLError

from evotrain.config import Config
from evotrain.data_config import DATA_CONFIGS, MixedSetConfig
from evotrain.errors import ConfigError

# What composition raises for a mistake in a configuration file or on the command line.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, FrozenInstanceError, YAMLError)

GROUPS = tuple(item.name for item in fields(Config) if is_dataclass(item.type))
ADDED_GROUPS = ("experiment", "sweep")  # not in the defaults list of conf/train.yaml: selected with a +

MANY = 12  # choices that are not all listed in a sentence

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def check_override(override: str) -> None:
    """Refuses what the command line cannot mean, before Hydra takes it for a request to change the schema.

    Raises:
      ConfigError: `override` is not key=value, deletes, adds a key, or sets a group to something unnamed.
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    if key.startswith("~"):
        raise ConfigError(f"{override} would delete {name}, but every key has a value: set another one, {name}=….")
    if not equals or not name:
        raise ConfigError(f"'{override}' is not an override: write key=value; `python -m evotrain --help` lists keys.")
    if name.startswith("hydra"):
        return  # Hydra's own settings follow its own rules
    if name in ADDED_GROUPS:
        if key != f"+{name}":
            raise ConfigError(f"{override} needs exactly one plus sign: write +{name}={value}.")
    elif "@" in name:
        raise ConfigError(f"{override} moves a group to another place, but places are fixed: leave out the @….")
    elif key.startswith("+"):
        if _exists(name) or name.startswith("data.sets."):
            raise ConfigError(f"{override} sets a key that exists already: write {name}={value}, without the plus.")
        raise _unknown_key(name)
    elif name.startswith("data.sets.") and name.count(".") == 2:
        raise ConfigError(f"{override} is no set: write {name}.root=… and {name}.weight=….")
    elif name in GROUPS and (value.startswith("{") or value.lstrip("-").isdigit()):
        raise ConfigError(f"{override} is not the name of a choice: write {name}=NAME, or {name}.KEY=VALUE for a key.")


def explain(error: Exception) -> ConfigError:
    """The sentence for one of COMPOSITION_ERRORS."""
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"'{error.override}' cannot be read as key=value: put quotes around a value with spaces, commas or "
            "brackets, as in 'name=\"a, b\"'."
        )
    if ambiguous := re.match(r"Ambiguous value for argument '([^']*)'", str(error)):
        key, _, values = ambiguous[1].partition("=")
        return ConfigError(
            f"{key} has several values, {values}: write -m for a sweep, or '{key}=[{values}]' for a list."
        )
    cause = _omegaconf_error(error)
    match cause:
        case ConfigAttributeError() | ConfigKeyError():
            return _unknown_key(cause.full_key, cause.object_type)
        case ValidationError():
            return _wrong_type(cause)
        case MissingMandatoryValue():
            meaning = _field(cause.object_type, cause.key)
            return ConfigError(f"{cause.full_key} has no value ({meaning}): write {cause.full_key}=….")
        case InterpolationResolutionError():
            return ConfigError(f"{cause.full_key} refers to something that does not exist: {_first_line(cause)}.")
    return ConfigError(f"The configuration cannot be composed: {_first_line(error)}.")


def spell(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(spell, value))}]"
    return str(value)


def listing(words: Iterable[str]) -> str:
    return ", ".join(map(str, words))


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted, numbers in them as numbers: v5e_8 before v5e_16."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def one_of_each_kind(names: Iterable[str]) -> list[str]:
    """The first of the names that begin alike, up to an underscore."""
    return list({_kind(name): name for name in reversed(in_order(names))}.values())[::-1]


def did_you_mean(word: str, words: Sequence[str], prefix: str = "") -> str:
    """The end of a sentence: a question with the closest of `words` where one is close, else a full stop."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else "."


def _kind(name: str) -> str:
    return name.partition("_")[0]


def _omegaconf_error(error: BaseException | None) -> OmegaConfBaseException | None:
    """The first error in the chain of causes that knows its key."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OmegaConfBaseException) and error.full_key:
            return error
        error = error.__cause__ or error.__context__
    return None


def _unknown_key(full_key: str, owner: Any = None) -> ConfigError:
    parent, _, key = full_key.rpartition(".")
    owner = owner if is_dataclass(owner) else _class_of(parent)
    if owner is None:
        return _not_a_group(parent) if _exists(parent) else _unknown_key(parent)
    for source, cls in DATA_CONFIGS.items():
        if parent == "data" and owner is not cls and key in _names(cls) and key not in _names(owner):
            return ConfigError(f"{full_key} is a key of data={source}: select that too, with data={source}.")
    names = _names(owner)
    where = f"of {parent} " if parent else ""
    prefix = f"{parent}." if parent else ""
    hint = did_you_mean(key, names, prefix)
    return ConfigError(f"There is no key {full_key}{hint} The keys {where}are {listing(names)}.")


def _unknown_choice(error: MissingConfigException) -> ConfigError:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or ())
    if group.startswith("hydra/"):
        return ConfigError(
            f"{group}={choice} is not installed: pip install 'evotrain[sweep]', or choose one of {listing(options)}."
        )
    plus = "+" if group in ADDED_GROUPS else ""
    if not options:
        return ConfigError(f"There is no configuration {error.missing_cfg_file}: {_first_line(error)}.")
    if len(options) > MANY:
        alike = [name for name in in_order(options) if _kind(name) == _kind(choice)]
        shown = alike or one_of_each_kind(options)
        return ConfigError(
            f"There is no {plus}{group}={choice}. There are {listing(shown)}, and others: --help {group} lists them."
        )
    hint = did_you_mean(choice, options)
    return ConfigError(f"There is no {plus}{group}={choice}{hint} The choices are {listing(options)}.")


def _wrong_type(error: ValidationError) -> ConfigError:
    owner = error.object_type
    hints = get_type_hints(owner) if is_dataclass(owner) else {}
    if error.key not in hints:
        return ConfigError(f"{error.full_key} has the wrong type: {_first_line(error)}.")
    if isinstance(error.value, dict):
        return _not_a_group(error.full_key)
    if is_dataclass(hints[error.key]):
        return ConfigError(f"{error.full_key} is a group: write {error.full_key}=NAME or {error.full_key}.KEY=VALUE.")
    return ConfigError(
        f"{error.full_key}={spell(error.value)} has the wrong type: {error.full_key} takes "
        f"{_type_name(hints[error.key])} ({_field(owner, error.key)})."
    )


def _not_a_group(key: str) -> ConfigError:
    return ConfigError(f"{key} is a single value, nothing is inside it: write {key}=….")


def _type_name(hint: Any) -> str:
    if NoneType in get_args(hint):
        (inner,) = (arg for arg in get_args(hint) if arg is not NoneType)
        return f"{_type_name(inner)} or null"
    return TYPE_NAMES.get(hint, "a list such as [seed,steps]")


def _field(owner: Any, key: Any) -> str:
    """The meaning of a key of a dataclass of the schema."""
    return next((item.metadata.get("meaning", "") for item in fields(owner) if item.name == key), "")


def _class_of(path: str) -> type | None:
    """The dataclass of a dotted group; of `data`, the keys that all kinds share."""
    cls: Any = Config
    names = [name for name in path.split(".") if name]
    if names[:2] == ["data", "sets"] and len(names) == 3:
        return MixedSetConfig
    for name in names:
        cls = get_type_hints(cls).get(name)
        if not is_dataclass(cls):
            return None
    return cls


def _exists(key: str) -> bool:
    parent, _, name = key.rpartition(".")
    owner = _class_of(parent)
    owners = [owner, *DATA_CONFIGS.values()] if parent == "data" else [owner]
    return any(cls is not None and name in _names(cls) for cls in owners)


def _names(cls: Any) -> list[str]:
    return [item.name for item in fields(cls)]


def _first_line(error: BaseException | None) -> str:
    return re.sub(r"\s+", " ", str(error).partition("\n")[0]).rstrip(".")
