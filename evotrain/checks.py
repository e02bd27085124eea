"""The rules that span several keys, answered before anything is compiled."""

import math
from dataclasses import fields, is_dataclass, replace
from pathlib import PurePath
from typing import Any

from evotrain.compose import flatten
from evotrain.config import BEST_MODES, Config, EvaluateConfig, MeshConfig
from evotrain.contacts import LONG_RANGE
from evotrain.errors import ConfigError
from evotrain.explain import did_you_mean, listing, spell

# The smallest value of each whole number; null passes where the schema allows it. −1 in the mesh: the rest.
AT_LEAST = {
    "seed": 0,
    "steps": 1,
    "batch_size": 1,
    "eval_every": 0,
    "model.blocks": 1,
    "model.c_m": 1,
    "model.c_z": 1,
    "model.msa_heads": 1,
    "model.msa_head_dim": 1,
    "model.pair_heads": 1,
    "model.pair_head_dim": 1,
    "model.c_outer": 1,
    "model.c_triangle": 1,
    "model.transition_factor": 1,
    "mesh.data": -1,
    "mesh.fsdp": -1,
    "mesh.context": -1,
    "mesh.microbatch": 1,
    "mesh.simulate": 0,
    "optimizer.warmup_examples": 0,
    "optimizer.decay_examples": 1,
    "optimizer.max_skipped": 1,
    "data.crop": 1,
    "data.msa_clusters": 1,
    "data.eval_examples": 1,
    "data.workers": 0,
    "data.prefetch": 1,
    "kernels.chunk_rows": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "logger.every": 1,
    "logger.timeout": 1,
    "evaluate.examples": 1,
}

AT_MOST = {"seed": 2**32 - 1}  # jax makes its keys from 32 bits: a larger seed would repeat a smaller one

# The interval of each other number, and whether it holds its ends.
ABOVE_ZERO, FROM_ZERO = ("(", 0.0, math.inf, ")"), ("[", 0.0, math.inf, ")")
BELOW_ONE, FRACTION = ("[", 0.0, 1.0, ")"), ("(", 0.0, 1.0, "]")
INTERVALS = {
    "model.msa_dropout": BELOW_ONE,
    "model.pair_dropout": BELOW_ONE,
    "model.loss.masked_msa": FROM_ZERO,
    "model.loss.distogram": FROM_ZERO,
    "target.peak_tflops": ABOVE_ZERO,
    "optimizer.lr": ABOVE_ZERO,
    "optimizer.b1": BELOW_ONE,
    "optimizer.b2": BELOW_ONE,
    "optimizer.eps": ABOVE_ZERO,
    "optimizer.decay_factor": FRACTION,
    "optimizer.clip_norm": ABOVE_ZERO,
    "optimizer.ema_decay": BELOW_ONE,
    "data.mask_fraction": FRACTION,
    "data.coupling": FROM_ZERO,
    "data.family_noise": FROM_ZERO,
    "data.branch_sweeps": ABOVE_ZERO,
    "data.eval_fraction": ("(", 0.0, 1.0, ")"),
}

# Keys without effect, by the value of another key that takes it from them.
SWITCHED_OFF = {
    "model.position": ("data.source", "synthetic"),
    "optimizer.decay_factor": ("optimizer.decay_examples", None),
    "optimizer.clip_norm": ("optimizer.clip", "none"),
    "logger.project": ("logger.wandb", "off"),
    "logger.entity": ("logger.wandb", "off"),
    "logger.timeout": ("logger.wandb", "off"),
}


def check(config: Config, device_count: int | None) -> None:
    """Refuses a configuration that cannot run, or that holds a key without effect.

    `device_count` is that of all processes; None where it is not known yet, which leaves the mesh's rules out.

    Raises:
      ConfigError: what is wrong, and what to write instead.
    """
    check_choices(config)
    check_ranges(config)
    check_command(config)
    check_model(config)
    check_effects(config)
    check_precision_and_kernels(config)
    check_optimizer(config)
    if config.command == "train":
        check_checkpoint(config)
    if device_count is not None:
        check_mesh(config, resolve_mesh(config.mesh, device_count))


def resolve_mesh(mesh: MeshConfig, device_count: int) -> MeshConfig:
    """The mesh with its −1 filled in.

    Raises:
      ConfigError: more than one −1, a size of 0, or a product that is not `device_count`.
    """
    sizes = {"data": mesh.data, "fsdp": mesh.fsdp, "context": mesh.context}
    spelled = " ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    if 0 in sizes.values():
        raise ConfigError(f"{spelled}: an axis has at least 1 device; write -1 for the devices that the others leave.")
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ConfigError(f"{spelled}: only one axis can take the rest; give {open_axes[0]} or {open_axes[1]} a size.")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if open_axes and device_count % fixed == 0:
        return replace(mesh, **{open_axes[0]: device_count // fixed})
    if open_axes or fixed != device_count:
        need = f"a multiple of {fixed}" if open_axes else f"{fixed}"
        raise ConfigError(
            f"{spelled} needs {need} devices, but there {'is' if device_count == 1 else 'are'} {device_count}: change "
            f"the mesh (mesh=data fits any number), or write mesh.simulate={fixed} to try it on CPU devices."
        )
    return mesh


def check_choices(config: Any, prefix: str = "") -> None:
    """Keys that take one of a few words."""
    for item in fields(config):
        value, key = getattr(config, item.name), prefix + item.name
        choices = item.metadata["choices"]
        if is_dataclass(value):
            check_choices(value, f"{key}.")
        elif choices and value not in choices:
            hint = did_you_mean(spell(value), choices)
            raise ConfigError(f"There is no {key}={spell(value)}{hint} The choices are {listing(choices)}.")


def check_ranges(config: Config) -> None:
    """Numbers that are too small, too large, or not finite."""
    for key, value in flatten(config).items():
        if value is None:
            continue
        if key in AT_LEAST and value < AT_LEAST[key]:
            raise ConfigError(f"{key}={value} is too small: write {AT_LEAST[key]} or more.")
        if key in AT_MOST and value > AT_MOST[key]:
            raise ConfigError(f"{key}={value} is too large: write {AT_MOST[key]} or less.")
        if key in INTERVALS:
            left, low, high, right = INTERVALS[key]
            above = value > low or (left == "[" and value == low)
            below = value < high or (right == "]" and value == high)
            if not (above and below):  # also catches NaN
                raise ConfigError(f"{key}={value} is out of range: write a number in {left}{low:g}, {high:g}{right}.")


def check_command(config: Config) -> None:
    """Keys of another command, and keys that name things which do not exist."""
    if config.command != "evaluate":
        changed = [
            f"evaluate.{item.name}" for item in fields(EvaluateConfig)
            if getattr(config.evaluate, item.name) != item.default
        ]  # fmt: skip
        if changed:
            raise ConfigError(
                f"{listing(changed)} changes nothing in command={config.command}: leave it out, or write "
                "command=evaluate run_dir=…."
            )
    checkpoint = config.evaluate.checkpoint
    if checkpoint not in ("best", "last") and not checkpoint.isdigit():
        raise ConfigError(f"There is no evaluate.checkpoint={checkpoint}: write best, last, or the number of a step.")
    known = flatten(config)
    for key in config.resume_allow:
        if key not in known:
            raise ConfigError(f"resume_allow names {key}, which is not a key{did_you_mean(key, list(known))}")
    for key in ("name", "run_dir"):
        if not known[key].strip():
            raise ConfigError(f"{key} is empty: write {key}=….")
    path = PurePath(config.name)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"name={config.name} leads out of runs/: write a plain name, and the place as run_dir=….")


def check_model(config: Config) -> None:
    """Heads against channels, and losses that count."""
    model = config.model
    for kind, channels, heads, head_dim in (
        ("msa", "c_m", model.msa_heads, model.msa_head_dim),
        ("pair", "c_z", model.pair_heads, model.pair_head_dim),
    ):
        size = getattr(model, channels)
        if head_dim is None and size % heads:
            raise ConfigError(
                f"model.{channels}={size} cannot be split over model.{kind}_heads={heads}: make it a multiple, or "
                f"write model.{kind}_head_dim=…."
            )
    if model.loss.masked_msa == model.loss.distogram == 0 and config.data.source != "synthetic":
        raise ConfigError("model.loss.masked_msa=0 model.loss.distogram=0 leaves nothing to learn: raise one of them.")


def check_effects(config: Config) -> None:
    """Keys that another key has switched off."""
    values, defaults = flatten(config), flatten(Config())
    for key, (switch, off) in SWITCHED_OFF.items():
        if values[switch] == off and values[key] != defaults[key]:
            raise ConfigError(f"{key}={spell(values[key])} changes nothing with {switch}={spell(off)}: leave it out.")


def check_precision_and_kernels(config: Config) -> None:
    """Number formats and implementations that need, or exclude, another key."""
    precision, kernels = config.precision, config.kernels
    if precision.compute != "float32" and precision.matmul != "default":
        raise ConfigError(
            f"precision.matmul={precision.matmul} changes nothing where matrices are {precision.compute}: write "
            "precision=bf16, or precision.matmul=default."
        )
    if kernels.attention == "xla_chunked" and kernels.chunk_rows is None:
        raise ConfigError("kernels.attention=xla_chunked needs kernels.chunk_rows: write kernels=xla_chunked.")
    if kernels.attention != "xla_chunked" and kernels.chunk_rows is not None:
        raise ConfigError(
            f"kernels.chunk_rows={kernels.chunk_rows} changes nothing with kernels.attention={kernels.attention}: "
            "leave it out, or write kernels=xla_chunked."
        )
    check_cueq(config)


def check_cueq(config: Config) -> None:
    """What cuEquivariance's attention kernels can compute: number formats and channels of a head."""
    if config.kernels.attention != "cueq":
        return
    model, precision = config.model, config.precision
    if precision.compute == "float32" and precision.matmul == "highest":
        raise ConfigError(
            "kernels.attention=cueq multiplies float32 matrices in TF32, not as precision.matmul=highest asks: write "
            "precision=bf16, precision.matmul=default, or kernels=xla."
        )
    most, multiple = (32, 4) if precision.compute == "float32" else (128, 8)
    for kind, channels, heads, head_dim in (
        ("msa", model.c_m, model.msa_heads, model.msa_head_dim),
        ("pair", model.c_z, model.pair_heads, model.pair_head_dim),
    ):
        size = head_dim or channels // heads
        if size > most or size % multiple:
            raise ConfigError(
                f"kernels.attention=cueq in {precision.compute} takes heads of at most {most} channels, a multiple of "
                f"{multiple}, but the {kind} heads have {size}: write model.{kind}_head_dim=…, or kernels=xla."
            )


def check_optimizer(config: Config) -> None:
    """The drop of the learning rate comes after the warm-up."""
    optimizer = config.optimizer
    if optimizer.decay_examples is not None and optimizer.decay_examples < optimizer.warmup_examples:
        raise ConfigError(
            f"optimizer.decay_examples={optimizer.decay_examples} is before the end of the warm-up, "
            f"optimizer.warmup_examples={optimizer.warmup_examples}: write a larger one, or null for no drop."
        )


def check_checkpoint(config: Config) -> None:
    """The metric that names the best checkpoint is one that the evaluation of this data reports."""
    best = config.checkpoint.best
    known = ["loss"] if config.data.source == "synthetic" else list(BEST_MODES)
    if best not in known:
        raise ConfigError(
            f"The evaluation of data={config.data.source} has no checkpoint.best={best}{did_you_mean(best, known)} "
            f"The choices are {listing(known)}."
        )
    if best.startswith("contact/") and config.data.crop <= LONG_RANGE:
        raise ConfigError(
            f"checkpoint.best={best} counts pairs {LONG_RANGE} residues apart, and data.crop={config.data.crop} holds "
            f"none: write data.crop={LONG_RANGE + 1} or more, or checkpoint.best=loss."
        )


def check_mesh(config: Config, mesh: MeshConfig) -> None:
    """The batch over data × fsdp and its micro-batches, one example over context. `mesh` is resolved."""
    shards = mesh.data * mesh.fsdp
    if config.batch_size % shards:
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be split over mesh.data × mesh.fsdp = {mesh.data} × {mesh.fsdp} "
            f"devices: write batch_size={max(1, config.batch_size // shards) * shards}, or another mesh."
        )
    share = config.batch_size // shards
    if share % mesh.microbatch:
        raise ConfigError(
            f"mesh.microbatch={mesh.microbatch} does not divide a device's {share} examples (batch_size over mesh.data "
            f"× mesh.fsdp): write mesh.microbatch={math.gcd(share, mesh.microbatch)}."
        )
    for key, size in (("crop", config.data.crop), ("msa_clusters", config.data.msa_clusters)):
        if size % mesh.context:
            raise ConfigError(
                f"data.{key}={size} cannot be split over mesh.context={mesh.context} devices: write "
                f"data.{key}={math.ceil(size / mesh.context) * mesh.context}, or another mesh.context."
            )
