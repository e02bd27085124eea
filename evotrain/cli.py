"""The command line: Hydra composes, a mistake is answered in one sentence, and `command` says what runs.

Nothing here imports jax before the configuration has been checked and the simulated devices have been asked for.
"""

import hashlib
import math
import os
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from evotrain.checks import check, check_target_keys
from evotrain.checks_data import check_prepare
from evotrain.compose import (
    conf_dir,
    default_experiment,
    register_schema,
    spell_for_hydra,
    to_config,
)
from evotrain.config import Config, best_mode
from evotrain.errors import ConfigError, Diverged, EvotrainError, Preempted
from evotrain.explain import COMPOSITION_ERRORS, check_override, explain, listing
from evotrain.help import print_help
from evotrain.trained import config_for_use, implicit_overrides

# The flags of Hydra that make sense here, with the number of values each takes.
FLAGS = {
    "-m": 0, "--multirun": 0, "--cfg": 1, "-c": 1, "--resolve": 0, "--info": 1, "-i": 1, "--config-dir": 1, "-cd": 1,
    "--hydra-help": 0, "--version": 0, "--shell-completion": 0, "-sc": 0,
}  # fmt: skip
MULTIRUN, SHOW = ("-m", "--multirun"), ("--cfg", "-c")
MODES = (*MULTIRUN, *SHOW, "--info", "-i", "--shell-completion", "-sc")  # each says what to do instead of one run
COMMON_FLAGS = ("--help", "-m", "--cfg job", "--config-dir DIRECTORY", "--version")

# Overrides that do not tell the trials of a sweep apart, or that may change when it is restarted.
NOT_IN_TRIAL_NAME = ("command", "experiment", "sweep", "name", "run_dir", "resume", "resume_allow")
DISTRIBUTED = "evotrain.parallel.distributed"
DEVICE_COUNT_FLAG = "--xla_force_host_platform_device_count"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    0; 1 where a run failed; 2 for a mistake in the configuration; 130 after Ctrl-C; 143 where a run was asked
    to stop and is saved, so that a cluster manager does not take it for finished. A failed one of several processes
    does not return: it ends at once.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return answer(arguments)
    except Exception as error:
        if not one_of_several():
            raise
        what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" not in what:
            print(f"The step failed ({what}): waiting to see whether another process has died …", file=sys.stderr)
            sys.modules[DISTRIBUTED].blame_others()
        traceback.print_exc()
        leave(1, what)


def answer(arguments: Sequence[str]) -> int:
    """Runs the command line, puts a failure into a sentence, and returns the exit code."""
    try:
        if "--help" in arguments or "-h" in arguments:
            print_help(conf_dir(), [word for word in arguments if word not in ("--help", "-h")])
        else:
            launch(arguments)
    except Preempted as stop:
        print(stop, file=sys.stderr)
        return 143  # 128 + SIGTERM, as a shell reports it
    except EvotrainError as error:
        print_error(error)
        return leave(2 if isinstance(error, ConfigError) else 1, str(error))
    except KeyboardInterrupt:
        return leave(130, "it was interrupted")
    return 0


def one_of_several() -> bool:
    """Whether this process has joined others."""
    distributed = sys.modules.get(DISTRIBUTED)  # it has not, if nothing has imported this
    return distributed is not None and distributed.process_count() > 1


def leave(code: int, why: str) -> int:
    """Returns `code`; one of several processes ends with it here, since the others could never end without it."""
    if one_of_several():
        sys.modules[DISTRIBUTED].leave(code, why)
    return code


def print_error(error: EvotrainError) -> None:
    """One paragraph on stderr; a single line, for grep, where that is not a terminal."""
    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=not console.is_terminal)


def launch(arguments: Sequence[str]) -> None:
    """Composes with Hydra and runs the command, once or for each trial of a sweep.

    Raises:
      EvotrainError: the first failure, of the configuration or of a run; a failing trial ends its sweep, unless it
        diverged, which is the worst result that a trial can have.
    """
    flags, overrides = split_arguments(arguments)
    check_sweep(flags, overrides)
    implicit = [*default_experiment(overrides), *implicit_overrides(overrides)]
    failures: list[EvotrainError] = []

    def task(cfg: DictConfig) -> float | None:
        if failures:
            raise failures[0]
        try:
            return run(cfg, implicit)
        except EvotrainError as error:
            multirun = HydraConfig.get().mode == RunMode.MULTIRUN
            if multirun and isinstance(error, Diverged):
                print_error(error)
                return -math.inf if best_mode(cfg.checkpoint.best) == "max" else math.inf
            failures.append(error)
            if multirun:
                raise  # a trial in a process of its own has no other way to tell
            return None

    register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise what it would print
    saved_argv = sys.argv
    sys.argv = [saved_argv[0], *flags, *implicit, *spell_for_hydra(overrides)]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(task)()
    except COMPOSITION_ERRORS as error:
        raise explain(error) from error
    finally:
        sys.argv = saved_argv
    if failures:
        raise failures[0]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags and overrides; Hydra takes flags only in front.

    Raises:
      ConfigError: a flag that does not exist or does not go with another, or an override that means nothing.
    """
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            check_override(word)
            overrides.append(word)
            continue
        flag, equals, _ = word.partition("=")
        if flag not in FLAGS:
            raise ConfigError(
                f"There is no flag {flag}: keys are set with key=value; flags are {listing(COMMON_FLAGS)}."
            )
        values = 0 if equals else FLAGS[flag]
        if len(rest) < values:
            raise ConfigError(f"{flag} needs a value after it.")
        flags += [word, *rest[:values]]
        del rest[:values]
    check_flags([word.partition("=")[0] for word in flags])
    return flags, overrides


def check_flags(flags: Sequence[str]) -> None:
    """Refuses flags that exclude each other, and one that lacks another. The values among `flags` do not matter.

    Raises:
      ConfigError: which ones.
    """
    modes = [flag for flag in flags if flag in MODES]
    if len(modes) > 1:
        raise ConfigError(f"{modes[0]} and {modes[1]} cannot go together: leave one of them out.")
    if "--resolve" in flags and not any(flag in SHOW for flag in modes):
        raise ConfigError("--resolve changes what --cfg prints, and nothing else: write --cfg job --resolve.")


def check_sweep(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """What can be said of a sweep before its trials are composed.

    Raises:
      ConfigError: a prepared sweep without -m, a sweep over what a process can have only once, or trials that would
        share a directory.
    """
    multirun = any(flag in flags for flag in MULTIRUN)
    shown = any(word.partition("=")[0] in SHOW for word in flags)
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "+sweep" and not multirun and not shown:
            raise ConfigError(f"{override} starts several runs: write python -m evotrain -m {override}.")
        if key in ("+sweep", "hydra/launcher") and "slurm" in value and multirun and not shutil.which("srun"):
            raise ConfigError(f"{override} needs SLURM, but this machine has no srun: start it on the cluster.")
        one_place = key == "run_dir" and "," not in value and "${" not in value
        if multirun and one_place and not {"command=evaluate", "command=predict"} & {*overrides}:
            raise ConfigError(
                f"{override} is one directory for all trials: write name=… for runs/NAME/TRIAL, or name the swept key "
                f"in it, as in run_dir='{value}/${{seed}}'."
            )
        if key == "mesh.simulate" and "," in value:
            raise ConfigError(
                f"{override} cannot be swept, a process makes its devices once: start a sweep for each number."
            )


def run(cfg: DictConfig, implicit: Sequence[str]) -> float | None:
    """Runs the command of one composed configuration and returns its objective, if it has one.

    `implicit` are the overrides that were not the user's. Raises EvotrainError.
    """
    overrides = [override for override in HydraConfig.get().overrides.task if override not in implicit]
    if cfg.command in ("evaluate", "predict"):
        config = config_for_use(cfg, overrides)
    else:
        default_run_dir = OmegaConf.to_container(cfg, resolve=False)["run_dir"] == Config.run_dir
        config = to_config(cfg)
        if config.command == "prepare":
            check_prepare(config, overrides)
        check_target_keys(config.command, overrides)
        if HydraConfig.get().mode == RunMode.MULTIRUN and default_run_dir:
            config = replace(config, run_dir=f"{config.run_dir}/{trial_name(overrides)}")
    # A prediction makes a mesh of its own.
    check(config, device_count=config.mesh.simulate if config.mesh.simulate and config.command != "predict" else None)
    simulate_devices(config.mesh.simulate)
    return dispatch(config)


def dispatch(config: Config) -> Any:
    if config.command == "prepare":
        from evotrain.prepare.command import prepare

        return prepare(config)
    if config.command == "info":
        from evotrain.info import info

        return info(config)
    if config.command == "plan":
        from evotrain.plan.command import plan

        return plan(config)
    if config.command == "evaluate":
        from evotrain.evaluate import evaluate_run

        return evaluate_run(config)
    if config.command == "predict":
        from evotrain.predict import predict_run

        return predict_run(config)
    from evotrain.train import train

    return train(config)


def simulate_devices(count: int) -> None:
    """Makes jax show `count` CPU devices, once it is imported; 0 leaves it alone.

    Raises:
      ConfigError: this process uses jax already, with other devices.
    """
    if not count:
        return
    if "jax" in sys.modules:  # an earlier trial of the sweep, or a program around this one
        import jax

        if jax.default_backend() == "cpu" and jax.device_count() == count:
            return
        raise ConfigError(
            f"mesh.simulate={count} comes too late, jax already has {jax.device_count()} devices in this process: "
            "start another one."
        )
    flags = os.environ.get("XLA_FLAGS", "").split()
    others = [flag for flag in flags if not flag.startswith(DEVICE_COUNT_FLAG)]
    os.environ["XLA_FLAGS"] = " ".join([*others, f"{DEVICE_COUNT_FLAG}={count}"])
    os.environ["JAX_PLATFORMS"] = "cpu"


def trial_name(overrides: Sequence[str]) -> str:
    """The directory of a trial: what tells it from the others, the same at every restart."""
    telling = sorted(item for item in overrides if item.partition("=")[0].lstrip("+") not in NOT_IN_TRIAL_NAME)
    name = ",".join(telling) or "trial"
    safe = re.sub(r"[^\w.,=+-]", "_", name)
    if safe == name and len(name) <= 200:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]  # two names may look the same once made safe
    return f"{safe[:180]}-{digest}"
