"""`command=plan`: what a training run needs on hardware that one does not have, before it is rented."""

import json
import math
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from evotrain.checks import check, resolve_mesh
from evotrain.compose import to_yaml
from evotrain.config import Config, MeshConfig
from evotrain.errors import ConfigError, RunError
from evotrain.plan import compile as compiler
from evotrain.plan.estimate import timed, times
from evotrain.plan.footprint import memory_of
from evotrain.plan.hlo import parse
from evotrain.plan.memory import read_memory
from evotrain.plan.report import print_plan, write_plan
from evotrain.plan.result import GIB, Candidate, Memory, Plan, Work
from evotrain.plan.search import best_layout, candidates, layout_of, least_remat, place
from evotrain.plan.traffic import work_of_module
from evotrain.plan.workload import work_of
from evotrain.run_dir import disk_errors

NEEDED = ("chips", "peak_tflops", "memory_gib", "memory_gbps", "link_gbps")


def plan(config: Config) -> float:
    """Plans the configured run, prints what it found, and writes plan.json and plan.png.

    The step is compiled for TPUs, whose compiler runs anywhere; for GPUs the analytic model answers. Returns the price
    in dollars, or the days where no price is known.

    Raises:
      ConfigError: the target is not known, or the mesh does not fit to its devices.
      RunError: the compiler failed.
    """
    check_target(config)
    target, name = config.target, HydraConfig.get().runtime.choices["target"]
    directory = Path(config.plan.out or Path(config.run_dir, "plan", name))
    devices = target.chips * target.devices_per_chip
    looked_at: list[Candidate] = candidates(config, devices) if config.plan.search else []
    if looked_at:
        config = place(config, chosen(looked_at, config, devices).layout)
    config = replace(config, mesh=resolve_mesh(config.mesh, devices, otherwise="choose another target"))
    check(config, devices)
    if config.mesh.remat == "auto":
        config = replace(config, mesh=replace(config.mesh, remat=least_remat(config, target.memory_gib * GIB)))

    with disk_errors(directory, "run_dir" if config.plan.out is None else "plan.out"):  # before what takes minutes
        directory.mkdir(parents=True, exist_ok=True)

    console = Console(highlight=False)
    if target.topology is not None:
        console.print(f"Compiling the step for {target.topology}, which takes minutes …", style="dim")
    made = plan_of(config, name, devices, looked_at)
    if not made.fits:
        made = replace(made, advice=advice(config, devices, looked_at))
    print_plan(made, console)
    write_plan(made, directory)
    console.print(f"plan.json and plan.png are in {directory}.")
    return made.days if made.dollars is None else made.dollars


def plan_of(config: Config, name: str, devices: int, looked_at: list[Candidate]) -> Plan:
    """The plan for the target of this name, compiled or by formula; `config.mesh` and its remat are resolved.

    Raises:
      RunError: the compiler failed.
    """
    target, seconds = config.target, None
    if target.topology is None:
        memory, work = memory_of(config), work_of(config)
    else:
        begun = time.perf_counter()
        memory, work = compiled(config)
        seconds = time.perf_counter() - begun
    work = timed(work, config.mesh, target)
    chips = f"{target.chips} chip{'s' * (target.chips > 1)}"
    return Plan(
        experiment=config.name,
        model=describe_model(config),
        target=f"{name}, {target.topology or chips}",
        chips=target.chips,
        devices=devices,
        layout=layout_of(config),
        batch_size=config.batch_size,
        steps=config.steps,
        recycles=config.model.recycles / 2,
        device_memory=target.memory_gib * GIB,
        peak_flops=target.peak_tflops * 1e12,
        memory=memory,
        work=work,
        times=times(work, target),
        usd_per_chip_hour=target.usd_per_chip_hour,
        method="analytic" if seconds is None else "compiled",
        compile_seconds=seconds,
        topology=target.topology,
        candidates=tuple(looked_at),
    )


def check_target(config: Config) -> None:
    """Refuses a target of which too little is known, and a compiler that is not there.

    Raises:
      ConfigError: what is missing, and how to get it.
    """
    needed = NEEDED if config.target.linked_devices is None else (*NEEDED, "network_gbps")
    missing = [f"target.{name}" for name in needed if getattr(config.target, name) is None]
    if "target.chips" in missing:
        raise ConfigError(
            "command=plan needs hardware to plan for: write target=v5e_16, or another choice of --help target."
        )
    if missing:
        raise ConfigError(
            f"command=plan needs {', '.join(missing)}: write a choice of --help target, or give their values."
        )
    topology, chips = config.target.topology, config.target.chips
    if topology is not None:
        sides = re.fullmatch(r"\w+:(\d+(?:x\d+){1,2})", topology)
        if not sides or math.prod(map(int, sides[1].split("x"))) != chips:
            raise ConfigError(
                f"target.topology={topology} does not arrange target.chips={chips}: write a choice of --help target."
            )
    if topology is not None and config.kernels.attention == "cueq":
        raise ConfigError("kernels.attention=cueq runs on NVIDIA GPUs, not on TPUs: write kernels=xla_chunked.")
    given = [name for name, default in vars(MeshConfig()).items() if getattr(config.mesh, name) != default]
    if config.plan.search and given:
        keys = ", ".join(f"mesh.{name}={getattr(config.mesh, name)}" for name in given)
        raise ConfigError(f"plan.search=true tries every mesh: leave mesh=… and {keys} out, or plan.search.")
    if config.mesh.simulate:
        raise ConfigError(f"mesh.simulate={config.mesh.simulate} changes nothing in command=plan: leave it out.")
    if config.target.topology is not None and find_spec("libtpu") is None:
        raise ConfigError(
            f"target.topology={config.target.topology} needs the TPU compiler, which runs on any machine: "
            'pip install "evotrain[tpu]".'
        )


def compiled(config: Config) -> tuple[Memory, Work]:
    """The memory and the work of the step as the compiler for the target lays it out. `config.mesh` is resolved.

    Raises:
      RunError: the compiler failed.
    """
    with tempfile.TemporaryDirectory(prefix="evotrain-plan-") as folder:
        directory = Path(folder)
        run_compiler(config, directory)
        return read_compiled(config, directory)


def run_compiler(config: Config, directory: Path) -> None:
    """Has a process of its own compile the step, and leave what it says in `directory`.

    Raises:
      RunError: it failed, with the compiler's words.
    """
    (directory / compiler.CONFIG).write_text(to_yaml(config))
    command = [sys.executable, "-m", compiler.__name__, str(directory)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    )
    try:
        output, _ = process.communicate()
    finally:
        process.kill()
    failure, complete = directory / compiler.FAILURE, compiler.all_written(directory)
    words = failure.read_text() if failure.exists() else ""
    # A step that needs more memory than there is was laid out nevertheless, which says how much.
    if words and not (complete and "RESOURCE_EXHAUSTED" in words):
        raise RunError(f"the compiler for {config.target.topology} failed: {words.partition(chr(10))[0]}")
    if process.returncode or not complete:
        last = output.strip().splitlines()[-1:] or ["it said nothing"]
        raise RunError(f"the compiler for {config.target.topology} ended with code {process.returncode}: {last[0]}")


def read_compiled(config: Config, directory: Path) -> tuple[Memory, Work]:
    """What `run_compiler` has left in `directory`."""
    (text,) = directory.glob(compiler.HLO)
    flops = json.loads((directory / compiler.PROGRAM).read_text())["flops"]
    return read_memory(directory, config), work_of_module(parse(text.read_text()), flops, config)


def chosen(looked_at: list[Candidate], config: Config, devices: int) -> Candidate:
    """The best of what the search has found.

    Raises:
      ConfigError: nothing fits.
    """
    best = best_layout(looked_at)
    if best is None:
        found_none = f"plan.search=true found no layout of batch_size={config.batch_size}"
        raise ConfigError(f"{found_none} that fits on {nothing(config, devices)}")
    return best


def nothing(config: Config, devices: int) -> str:
    """The end of a sentence: on how many devices nothing fits, and what else there is to try."""
    chunks = ", or kernels=xla_chunked" if config.kernels.attention == "xla" else ""
    return f"{devices} device{'s' * (devices > 1)}: choose a target with more memory or more chips{chunks}."


def advice(config: Config, devices: int, looked_at: list[Candidate]) -> tuple[str, ...]:
    """What to change where a plan does not fit: another layout, since the model may have trusted in this one."""
    others = looked_at or candidates(config, devices)
    found = best_layout([one for one in others if one.layout != layout_of(config)])
    if found is not None:
        return (f"By the analytic model this fits, in {found.memory / GIB:.1f} GiB: {found.layout.overrides()}",)
    return (f"No layout of batch_size={config.batch_size} fits on {nothing(config, devices)}",)


def describe_model(config: Config) -> str:
    model, data = config.model, config.data
    more = f", {data.extra_msa} extra" if model.extra_msa.blocks else ""
    more += f", {data.templates} templates" if model.template.blocks else ""
    return f"{model.blocks} blocks, crop {data.crop}, {data.msa_clusters} sequences{more}, {config.precision.compute}"
