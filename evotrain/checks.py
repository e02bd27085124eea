"""The rules that span several keys, answered before anything is compiled."""

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import PurePath
from typing import Any

from evotrain.checks_data import check_data
from evotrain.compose import flatten
from evotrain.config import (
    BEST_MODES,
    Config,
    EvaluateConfig,
    InfoConfig,
    MeshConfig,
    PlanConfig,
    PredictConfig,
    PrepareConfig,
)
from evotrain.contacts import LONG_RANGE
from evotrain.errors import ConfigError
from evotrain.explain import did_you_mean, listing, spell
from evotrain.limits import AT_LEAST, AT_MOST, INTERVALS, SET_OF_MIXTURE, STRUCTURE_LOSSES, SWITCHED_OFF

TRAINING = ("train", "plan", "info")  # commands about a training run
# Keys of target that commands read, but for command=plan, which reads all.
TARGET_KEYS = {"train": ("peak_tflops", "memory_gib"), "info": ("chips", "devices_per_chip")}


def check(config: Config, device_count: int | None, *, processes: int = 1) -> None:
    """Refuses a configuration that cannot run, or that holds a key without effect.

    `device_count` is that of all `processes`; None where it is not known yet, which leaves the mesh's rules out.

    Raises:
      ConfigError: what is wrong, and what to write instead.
    """
    check_choices(config)
    check_ranges(config)
    check_command(config)
    check_model(config)
    check_effects(config)
    check_data(config)
    check_precision_and_kernels(config)
    check_optimizer(config)
    if config.command in TRAINING:
        check_checkpoint(config)
    if device_count is not None:
        otherwise = "start another number of processes" if processes > 1 else None
        check_mesh(config, resolve_mesh(config.mesh, device_count, otherwise=otherwise))


def resolve_mesh(mesh: MeshConfig, device_count: int, *, otherwise: str | None = None) -> MeshConfig:
    """The mesh with its −1 filled in.

    `otherwise` is a remedy beside another mesh; by default that of a single process, to simulate devices.

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
        otherwise = otherwise or f"write mesh.simulate={fixed} to try it on CPU devices"
        raise ConfigError(
            f"{spelled} needs {need} devices, but there {'is' if device_count == 1 else 'are'} {device_count}: change "
            f"the mesh (mesh=data fits any number), or {otherwise}."
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
        rule = SET_OF_MIXTURE.sub("data.", key)
        if rule in AT_LEAST and value < AT_LEAST[rule]:
            raise ConfigError(f"{key}={value} is too small: write {AT_LEAST[rule]} or more.")
        if rule in AT_MOST and value > AT_MOST[rule]:
            raise ConfigError(f"{key}={value} is too large: write {AT_MOST[rule]} or less.")
        if rule in INTERVALS:
            left, low, high, right = INTERVALS[rule]
            above = value > low or (left == "[" and value == low)
            below = value < high or (right == "]" and value == high)
            if not (above and below):  # also catches NaN
                raise ConfigError(f"{key}={value} is out of range: write a number in {left}{low:g}, {high:g}{right}.")


def check_command(config: Config) -> None:
    """Keys of another command, and keys that name things which do not exist."""
    groups = {
        "prepare": PrepareConfig,
        "info": InfoConfig,
        "plan": PlanConfig,
        "evaluate": EvaluateConfig,
        "predict": PredictConfig,
    }
    for command, cls in groups.items():
        group = getattr(config, command)
        changed = [f"{command}.{item.name}" for item in fields(cls) if getattr(group, item.name) != item.default]
        if changed and config.command != command:
            needed = {"prepare": " data.root=…", "info": "", "plan": " target=…"}.get(command, " run_dir=…")
            raise ConfigError(
                f"{listing(changed)} changes nothing in command={config.command}: leave it out, or write "
                f"command={command}{needed}."
            )
    for command in ("evaluate", "predict"):
        group = getattr(config, command)
        if group.checkpoint not in ("best", "last") and not group.checkpoint.isdigit():
            raise ConfigError(
                f"There is no {command}.checkpoint={group.checkpoint}: write best, last, or the number of a step."
            )
    known = flatten(config)
    for key in config.resume_allow:
        if key not in known and key != "data":  # other proteins, on purpose
            raise ConfigError(f"resume_allow names {key}, which is not a key{did_you_mean(key, ['data', *known])}")
    for key in ("name", "run_dir"):
        if not known[key].strip():
            raise ConfigError(f"{key} is empty: write {key}=….")
    path = PurePath(config.name)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"name={config.name} leads out of runs/: write a plain name, and the place as run_dir=….")


def check_target_keys(command: str, overrides: Sequence[str]) -> None:
    """Overrides of facts of the hardware that only another command reads; a choice of target brings them all.

    Raises:
      ConfigError: which one.
    """
    if command == "plan":
        return
    for override in overrides:
        group, _, name = override.partition("=")[0].partition(".")
        if group == "target" and name and name not in TARGET_KEYS.get(command, ()):
            raise ConfigError(f"{override} changes nothing in command={command}: leave it out, or write command=plan.")


def check_model(config: Config) -> None:
    """Heads against channels, parts that need data, and losses that count."""
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
    for part, channels, size in (
        ("extra_msa", "c_m", model.extra_msa.c_m),
        ("template", "c_t", model.template.c_t),
    ):
        if size % (heads := getattr(model, part).heads):
            raise ConfigError(
                f"model.{part}.{channels}={size} cannot be split over model.{part}.heads={heads}: make it a multiple."
            )
    check_parts(config)


def check_parts(config: Config) -> None:
    """The parts of the network against the data that they read, and the losses that train them."""
    model, data = config.model, config.data
    if data.source == "synthetic":
        # The Evoformer stack alone is trained.
        for key, value in (
            ("model.recycles", model.recycles),
            ("model.extra_msa.blocks", model.extra_msa.blocks),
            ("model.template.blocks", model.template.blocks),
            ("model.structure.layers", model.structure.layers),
        ):
            if value:
                raise ConfigError(f"{key}={value} changes nothing with data.source=synthetic: write {key}=0.")
        return
    if data.source == "coevolution" and model.structure.layers and config.command in TRAINING:
        raise ConfigError(
            f"model.structure.layers={model.structure.layers} has nothing to learn from data=coevolution, which makes "
            "Cα and Cβ atoms only: write data=msa_dir data.root=…, or model.structure.layers=0."
        )
    for part, rows, blocks in (
        ("extra_msa", data.extra_msa, model.extra_msa.blocks),
        ("template", data.templates, model.template.blocks),
    ):
        key = {"template": "templates"}.get(part, part)
        if blocks and not rows:
            raise ConfigError(
                f"model.{part}.blocks={blocks} needs rows to read, but data.{key}=0: write data.{key}=…, or "
                f"model.{part}.blocks=0."
            )
    if config.command in TRAINING and model.structure.aligned_error and not model.loss.aligned_error:
        raise ConfigError(
            "model.structure.aligned_error=true with model.loss.aligned_error=0 would leave that head untrained: write "
            "model.loss.aligned_error=0.1, as AlphaFold 2 did."
        )
    trained = ("masked_msa", "distogram", *(STRUCTURE_LOSSES if model.structure.layers else ()))
    if not any(getattr(model.loss, part) for part in trained):
        weights = " ".join(f"model.loss.{part}=0" for part in trained)
        raise ConfigError(f"{weights} leaves nothing to learn: raise one of them.")


def check_effects(config: Config) -> None:
    """Keys that another key has switched off."""
    values, defaults = flatten(config), flatten(replace(Config(), data=type(config.data)()))
    for key, (switch, off) in SWITCHED_OFF.items():
        if values.get(switch, ...) == off and values[key] != defaults[key]:
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
    extra, template = model.extra_msa, model.template
    heads = {
        "msa": (model.msa_head_dim or model.c_m // model.msa_heads, "model.msa_head_dim"),
        "pair": (model.pair_head_dim or model.c_z // model.pair_heads, "model.pair_head_dim"),
        **({"extra MSA": (extra.c_m // extra.heads, "model.extra_msa.heads")} if extra.blocks else {}),
        **({"template": (template.c_t // template.heads, "model.template.heads")} if template.blocks else {}),
    }
    for kind, (size, key) in heads.items():
        if size > most or size % multiple:
            raise ConfigError(
                f"kernels.attention=cueq in {precision.compute} takes heads of at most {most} channels, a multiple of "
                f"{multiple}, but the {kind} heads have {size}: write {key}=…, or kernels=xla."
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
    if not config.model.structure.layers:
        known = [metric for metric in known if not metric.startswith("structure/")]
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
    """The batch over data × fsdp, and its micro-batches. `mesh` is resolved."""
    shards = mesh.data * mesh.fsdp
    if config.batch_size % shards:
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be split over mesh.data × mesh.fsdp = {mesh.data} × {mesh.fsdp} "
            f"devices: write batch_size={max(1, config.batch_size // shards) * shards}, or another mesh."
        )
    if mesh.remat == "gathered" and mesh.context == 1 and config.command in TRAINING:
        raise ConfigError(
            "mesh.remat=gathered keeps what devices that share an example send each other, but mesh.context=1: write "
            "mesh.remat=block, or auto."
        )
    share = config.batch_size // shards
    if share % mesh.microbatch:
        raise ConfigError(
            f"mesh.microbatch={mesh.microbatch} does not divide a device's {share} examples (batch_size over mesh.data "
            f"× mesh.fsdp): write mesh.microbatch={math.gcd(share, mesh.microbatch)}."
        )
