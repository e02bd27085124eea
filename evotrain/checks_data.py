"""The rules of the data's keys, and of `command=prepare`."""

from collections.abc import Sequence
from datetime import date

from evotrain.config import Config
from evotrain.data_config import PREPARED_KEYS, MixtureConfig, MsaDirConfig, ProteinSetConfig
from evotrain.errors import ConfigError
from evotrain.explain import listing, spell

DATES = ("templates_before", "released_before")


def check_data(config: Config) -> None:
    """Dates, sets, and keys that another key of the data has switched off."""
    data = config.data
    for prefix, proteins in protein_sets(config).items():
        for name in DATES:
            if (value := getattr(proteins, name)) is not None and not _is_date(value):
                raise ConfigError(f"{prefix}{name}={value} is no date: write it as 2018-04-30.")
        if proteins.templates_before is not None and proteins.template_structures is None:
            raise ConfigError(
                f"{prefix}templates_before={proteins.templates_before} changes nothing without "
                f"{prefix}template_structures: name the directory in which hits are looked up, or leave it out."
            )
    if isinstance(data, MixtureConfig) and not data.sets:
        raise ConfigError(
            "data=mixture has no sets: write data.sets.NAME.root=… and data.sets.NAME.weight=… for each, or "
            "data=af2_distillation, which has two."
        )
    if isinstance(data, MsaDirConfig) and data.only is not None and data.eval_fraction != MsaDirConfig.eval_fraction:
        raise ConfigError(
            f"data.eval_fraction={spell(data.eval_fraction)} changes nothing with data.only={data.only}: leave one of "
            "them out."
        )


def check_prepare(config: Config, overrides: Sequence[str]) -> None:
    """What `command=prepare` needs, and the `overrides` of the command line that it has no use for.

    Raises:
      ConfigError: what is missing or of no use.
    """
    if not isinstance(config.data, MsaDirConfig):
        raise ConfigError(f"command=prepare reads proteins from files, not data={config.data.source}: leave data out.")
    if config.prepare.out is None:
        raise ConfigError("command=prepare needs the directory that it writes: write prepare.out=DIRECTORY.")
    shard(config)
    keys = [f"data.{name}" for name in ("root", *PREPARED_KEYS)]
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        # Other choices of data=… that read files, as data=af2, differ in how they are trained on.
        known = override == "data=msa_dir" or key in ("command", "sweep", *keys)
        if not known and key.partition(".")[0] != "prepare":
            raise ConfigError(
                f"{override} changes nothing in command=prepare, which takes prepare.… and {listing(keys)}: leave it "
                "out, and choose it when you train."
            )


def shard(config: Config) -> tuple[int, int]:
    """The numbers i and n of `prepare.shard=i/n`.

    Raises:
      ConfigError: there is no such part.
    """
    part, slash, parts = config.prepare.shard.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise ConfigError(
            f"prepare.shard={config.prepare.shard} is no part of the work: write i/n with i from 0 to n - 1, as in 0/8."
        )
    return int(part), int(parts)


def protein_sets(config: Config) -> dict[str, ProteinSetConfig]:
    """The sets of proteins on disk by the beginning of their keys; empty for generated data."""
    if isinstance(config.data, MixtureConfig):
        return {f"data.sets.{name}.": proteins for name, proteins in config.data.sets.items()}
    return {"data.": config.data} if isinstance(config.data, MsaDirConfig) else {}


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
