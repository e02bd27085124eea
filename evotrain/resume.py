"""How a run begins: whether its directory may be used, and which parameters it starts from."""

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from evotrain.checkpoint import Checkpoints
from evotrain.compose import differences, flatten, load_saved
from evotrain.config import Config, ModelConfig
from evotrain.data.sources import Source
from evotrain.errors import ConfigError, DataError, RunError
from evotrain.explain import listing, spell
from evotrain.limits import SET_OF_MIXTURE
from evotrain.parallel import distributed
from evotrain.published import infer_model
from evotrain.run_dir import RunDir
from evotrain.state import TrainState, abstract_state, create_state
from evotrain.weights import load_alphafold

# Keys that may differ when a run is continued: they change how long it runs, where, and what it reports, not its path.
FREE_GROUPS = ("mesh", "target", "checkpoint", "logger", "debug", "prepare", "evaluate")
FREE_KEYS = (
    "command",
    "name",
    "run_dir",
    "steps",
    "eval_every",
    "resume",
    "resume_allow",
    "data.workers",
    "data.prefetch",
    "data.timeout",
)
# Keys of a set, beside its root, that decide which proteins are trained on and how often. With other values the data
# are others.
CHOOSING_KEYS = (
    "data.only",
    "data.weight",
    "data.eval_fraction",
    "data.released_before",
    "data.max_resolution",
    "data.max_repeat",
    "data.weigh_length",
    "data.weigh_cluster",
)


def check_same_run(config: Config, run_dir: RunDir) -> None:
    """Refuses to mix two runs in one directory.

    Raises:
      RunError: the directory holds a run with other values of keys that decide its numbers.
    """
    if not run_dir.config.exists() or not _has_begun(run_dir):
        return
    allowed = set(config.resume_allow)
    free = FREE_GROUPS + (("data",) if "data" in allowed else ())
    changed = {
        key: values
        for key, values in differences(load_saved(run_dir.config), config).items()
        if key.partition(".")[0] not in free and key not in FREE_KEYS and key not in allowed
    }
    if changed:
        listed = ", ".join(f"{key}={spell(old)} (now {spell(new)})" for key, (old, new) in changed.items())
        known = flatten(config)
        # A key that the other kind of data has, or another set, is none of this configuration.
        words = ["data" if _chooses(key) or key not in known else key for key in changed]
        raise RunError(
            f"{run_dir.path} holds a run with {listed}: choose another name=…, or continue it all the same with "
            f"{_allowing(config, words)}."
        )


def begin(config: Config, mesh: Mesh, checkpoints: Checkpoints, fingerprints: dict[str, str]) -> tuple[TrainState, str]:
    """The state that the run starts from, and a line that says which. `fingerprints` are those of its data.

    In this order: 1. the newest checkpoint of the run itself, 2. the parameters of another run or of AlphaFold 2
    (`init_from`), 3. fresh parameters.

    Raises:
      ConfigError: `resume` forbids what the directory holds, or `init_from` names no run.
      RunError: the checkpoint is of another model, damaged, or of a run on other data.
    """
    latest = checkpoints.latest_step()
    if latest is not None and config.resume == "never":
        raise ConfigError(
            f"resume=never, but {config.run_dir} holds a checkpoint of step {latest}: write another name=…."
        )
    if latest is None and config.resume == "must":
        raise ConfigError(
            f"resume=must, but {config.run_dir} holds no checkpoint: write resume=auto, or another run_dir=…."
        )
    abstract = abstract_state(config, mesh)
    if latest is None and any(checkpoints.directory.glob("*.damaged*")):
        raise RunError(
            f"every checkpoint in {checkpoints.directory} is damaged: write another name=… to start anew, or move the "
            "damaged ones away."
        )
    if latest is not None:
        check_same_data(checkpoints.meta(latest), fingerprints, config)
        state, _ = checkpoints.restore(latest, abstract)
        return state, f"continues from step {latest}"
    if config.init_from is None:
        return create_state(config, mesh), "starts from fresh parameters"
    if config.init_from.endswith(".npz"):
        infer_model(config.init_from)  # that there is none is said before what takes a minute
        fresh = create_state(config, mesh)
        params, origin = published_params(config.init_from, config.model, fresh.params), config.init_from
    else:
        params, step = load_params(config.init_from, "best", abstract.ema)
        fresh, origin = create_state(config, mesh), f"step {step} of {config.init_from}"
    # A copy for the average: the step donates both, and one buffer cannot be given away twice.
    return fresh._replace(params=params, ema=jax.tree.map(jnp.copy, params)), f"starts from {origin}"


def check_same_data(meta: dict[str, Any], fingerprints: dict[str, str], config: Config) -> None:
    """Refuses to continue on data of which another example would come next, unless `resume_allow` has the word data.

    A set may have moved, or been prepared: that leaves its fingerprint as it was.

    Raises:
      RunError: proteins, their split or their weights have changed since the checkpoint with this `meta`.
    """
    saved = meta.get("data")
    earlier = not isinstance(saved, dict)  # the checkpoint is of a version that did not keep them
    if earlier or saved == fingerprints or "data" in config.resume_allow:
        return
    raise RunError(
        f"the data of {config.run_dir} have changed since it was saved ({_changed(saved, fingerprints)}): restore "
        f"them, choose another name=…, or continue it on the other data with {_allowing(config, ['data'])}."
    )


def check_hosts_agree(source: Source) -> None:
    """Refuses data that differ between the hosts of a run. Every process must call it.

    Raises:
      DataError: on which host they differ from those of process 0; raised on every process.
    """
    here = (socket.gethostname(), source.fingerprints, source.held_out)
    (first, expected, held_out), *others = distributed.from_every_process(here)
    for process, (host, found, held_out_there) in enumerate(others, start=1):
        if found != expected:
            raise DataError(
                f"process {process}, on {host}, sees other data than process 0, on {first} "
                f"({_changed(expected, found)}): give every host the same files."
            )
        if held_out_there != held_out:
            raise DataError(
                f"the held-out examples are {held_out_there} for process {process}, on {host}, and {held_out} for "
                f"process 0, on {first}: give every host the same files and the same command."
            )


def published_params(path: str, model: ModelConfig, fresh: Any) -> Any:
    """AlphaFold 2's parameters from an .npz file, in the place of `fresh` ones.

    The aligned-error head stays fresh where the file has none: AlphaFold 2's pTM models were fine-tuned so.

    Raises:
      ConfigError: the file cannot be read, or holds another model.
    """
    if model.structure.aligned_error and not infer_model(path).get("structure.aligned_error"):
        model = replace(model, structure=replace(model.structure, aligned_error=False))
    return fresh | place_alphafold(path, model, fresh)


def place_alphafold(path: str, model: ModelConfig, like: Any) -> Any:
    """AlphaFold 2's parameters from an .npz file, each on the devices of the array of that name in `like`.

    Raises:
      ConfigError: the file cannot be read, or holds another model.
    """

    def place(x: np.ndarray, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
        return jax.make_array_from_callback(x.shape, like.sharding, lambda index: x[index])

    params = load_alphafold(path, model)
    return jax.tree.map(place, params, {name: like[name] for name in params})


def load_params(path: str | Path, which: str | int, abstract: Any) -> tuple[Any, int]:
    """The averaged parameters of a run's checkpoint ("best", which is the last where none is, "last", or a step).

    Raises:
      ConfigError: `path` is not a run's directory.
      RunError: there is no such checkpoint, or it is of another model.
    """
    run_dir = RunDir(path)
    if not run_dir.config.exists() or not run_dir.checkpoints.exists():
        raise ConfigError(f"{path} is not the directory of a run with checkpoints: name one, as in runs/quickstart.")
    with Checkpoints(run_dir.checkpoints, load_saved(run_dir.config).checkpoint, read_only=True) as checkpoints:
        steps = {"best": checkpoints.best_step() or checkpoints.latest_step(), "last": checkpoints.latest_step()}
        step = steps.get(which, which)
        if step is None:
            raise RunError(
                f"{run_dir.checkpoints} holds no checkpoint yet: wait for the run's first, or name another run."
            )
        return checkpoints.restore_params(int(step), {"ema": abstract})["ema"], int(step)


def _chooses(key: str) -> bool:
    """Whether a key of the data decides which proteins are trained on, and how often."""
    return SET_OF_MIXTURE.sub("data.", key) in CHOOSING_KEYS


def _changed(before: dict[str, str], after: dict[str, str]) -> str:
    """Which sets have other fingerprints, by their keys, and what that means."""
    prefixes = sorted(before.keys() | after.keys())
    roots = listing(f"{prefix}root" for prefix in prefixes if before.get(prefix) != after.get(prefix))
    return f"{roots}: other proteins, another split or other weights"


def _allowing(config: Config, words: Sequence[str]) -> str:
    """The override that allows `words` too. `data` stands for all of its keys."""
    allowed = dict.fromkeys([*config.resume_allow, *words])
    if "data" in allowed:
        allowed = [word for word in allowed if not word.startswith("data.")]
    return f"resume_allow=[{','.join(allowed)}]"


def _has_begun(run_dir: RunDir) -> bool:
    has_rows = run_dir.metrics.exists() and run_dir.metrics.stat().st_size > 0
    return has_rows or (run_dir.checkpoints.exists() and any(run_dir.checkpoints.iterdir()))
