"""Measures the data pipeline: features from raw and from prepared files beside DeepMind's, slow examples, memory.

    python tests/benchmarks/pipeline.py                       # all of it, about three minutes on two cores
    python tests/benchmarks/pipeline.py speed --turns 100 --rows 1000 10000
    python tests/benchmarks/pipeline.py stall memory

speed   Model-ready features at AlphaFold's sizes of a protein of 256 residues: 128 clusters, 1024 extra rows, 4 passes.
        Three programs take turns in one process on one thread: ours from a3m + mmCIF, ours from what command=prepare
        made of them, and DeepMind's parsers and transforms (it makes the first pass twice, but no labels from the
        structure and no block deletion, which ours does). Files come from the disk's cache, no parsed protein is kept.
stall   A step of a fixed time is fed by worker processes with examples that sleep, one in a hundred 30 times as long:
        how much longer the mean step takes than its own time, and whether the batches are the same twice. Nobody waits
        for a slow example that is prepared within data.prefetch steps.
memory  Of each worker process, while 10 000 small examples of a prepared set go through it.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from itertools import islice
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
BENCHMARKS = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCHMARKS.parents[1])]

import numpy as np
from made_files import write_proteins
from slow_examples import SlowExamples

import evotrain.data.sets.raw
from evotrain.compose import compose
from evotrain.config import Config, PrepareConfig
from evotrain.data.features.example import ExampleShape, example
from evotrain.data.pipeline import Batches
from evotrain.data.sets.protein_set import open_set
from evotrain.data.sources import open_source
from evotrain.data_config import MsaDirConfig
from evotrain.parallel.mesh import make_mesh
from evotrain.prepare.command import prepare

RESIDUES, CLUSTERS, EXTRA, PASSES = 256, 128, 1024, 4
SHAPE = ExampleShape(
    crop=RESIDUES, msa_clusters=CLUSTERS, extra_msa=EXTRA, passes=PASSES, structure=True, mask_fraction=0.15,
    block_deletions=5,
)  # fmt: skip
PROTEINS = 3  # files that take turns
SECONDS = 0.02  # of an example of the stall test
FACTOR = 30  # of a slow one
EXAMPLES = 10_000  # of the memory test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", default=["speed", "stall", "memory"], help="speed, stall, memory")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10000], help="rows of the alignments")
    parser.add_argument("--turns", type=int, default=30, help="examples of each of our programs; DeepMind's: a tenth")
    parser.add_argument("--steps", type=int, default=150, help="steps of the stall test")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evotrain-benchmark-") as directory:
        if "speed" in options.parts:
            for rows in options.rows:
                measure_speed(Path(directory, str(rows)), rows, options.turns)
        if "stall" in options.parts:
            measure_stall(options.steps)
        if "memory" in options.parts:
            measure_memory(Path(directory, "small"))


# --- speed -----------------------------------------------------------------------------------------------------------


def measure_speed(root: Path, rows: int, turns: int) -> None:
    evotrain.data.sets.raw.CACHE_BYTES = 0  # every example is read anew
    write_proteins(root / "raw", PROTEINS, residues=RESIDUES, rows=rows)
    prepare_set(root / "raw", root / "prepared")
    programs = {"raw": ours(root / "raw"), "prepared": ours(root / "prepared"), "DeepMind": deepmind(root / "raw")}
    wall: dict[str, list[float]] = {name: [] for name in programs}
    cpu: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(-1, turns):  # the first one warms up
        for name, program in programs.items():
            if name == "DeepMind" and turn > 0 and turn % 10:
                continue
            begun, used = time.perf_counter(), time.process_time()
            program(turn % PROTEINS, turn)
            if turn >= 0:
                wall[name].append(time.perf_counter() - begun)
                cpu[name].append(time.process_time() - used)
    print(f"\n{rows} rows x {RESIDUES} residues, {CLUSTERS} clusters, {EXTRA} extra rows, {PASSES} passes")
    print("           examples/s/core  x DeepMind   p50 ms   p99 ms  p99/p50   (n)")
    for name in programs:
        rate, reference = (1 / np.mean(cpu[one]) for one in (name, "DeepMind"))
        middle, late = np.percentile(wall[name], [50, 99])
        print(
            f"  {name:9s}{rate:15.2f}{rate / reference:12.1f}{1e3 * middle:10.0f}{1e3 * late:9.0f}{late / middle:9.2f}"
            f"   ({len(wall[name])})",
            flush=True,
        )


def ours(root: Path) -> Callable[[int, int], None]:
    """evotrain's example from files or from a prepared set."""
    proteins = open_set(data_config(root))

    def run(number: int, seed: int) -> None:
        example(proteins.read(f"made{number}"), np.random.default_rng((seed + 1,)), SHAPE)

    return run


def deepmind(root: Path) -> Callable[[int, int], None]:
    """DeepMind's features of the same files, with the labels' coordinates read but not transformed."""
    from alphafold.data import mmcif_parsing, parsers, pipeline, templates
    from alphafold.model import config, features

    settings = config.model_config("model_1")
    settings.data.common.update(
        {"max_extra_msa": EXTRA, "num_recycle": PASSES - 1, "use_templates": False,
         "reduce_msa_clusters_by_max_templates": False}
    )  # fmt: skip
    settings.data.eval.update({"max_msa_clusters": CLUSTERS})

    def run(number: int, seed: int) -> None:
        folder = root / f"made{number}"
        msa = parsers.parse_a3m((folder / "msa.a3m").read_text())
        query = msa.sequences[0]
        text = (folder / "structure.cif").read_text()
        parsed = mmcif_parsing.parse.__wrapped__(file_id=folder.name, mmcif_string=text, catch_all_errors=False)
        templates._get_atom_positions(parsed.mmcif_object, "A", max_ca_ca_distance=1e9)
        raw = pipeline.make_sequence_features(query, folder.name, len(query)) | pipeline.make_msa_features([msa])
        features.np_example_to_features(raw, settings, random_seed=seed + 1)

    return run


def data_config(root: Path, crop: int = RESIDUES) -> MsaDirConfig:
    return MsaDirConfig(root=str(root), crop=crop, msa_clusters=CLUSTERS)


def prepare_set(raw: Path, out: Path) -> None:
    with redirect_stdout(StringIO()):
        prepare(Config(command="prepare", data=data_config(raw), prepare=PrepareConfig(out=str(out), workers=1)))


# --- stall -----------------------------------------------------------------------------------------------------------


def measure_stall(steps: int) -> None:
    config = compose(["data.workers=4", "batch_size=4", "mesh.data=1"])
    step = 3 * SECONDS
    print(
        f"\nsteps of {1e3 * step:.0f} ms, 4 examples a step, 4 workers, {1e3 * SECONDS:.0f} ms an example, "
        f"1 % of them {FACTOR} times as long"
    )
    for prefetch in (4, 16):
        changed = replace(config, data=replace(config.data, prefetch=prefetch))
        without, _ = run_steps(SlowExamples(SECONDS, 1), changed, steps, step)
        runs = [run_steps(SlowExamples(SECONDS, FACTOR), changed, steps, step) for _ in range(2)]
        stall = np.mean([stall for stall, _ in runs])
        same = "the same batches twice" if runs[0][1] == runs[1][1] else "DIFFERENT BATCHES"
        print(
            f"  prefetch={prefetch:<3d} longer by {100 * stall:5.1f} % of a step, "
            f"by {100 * without:.1f} % without slow examples; {same}",
            flush=True,
        )


def run_steps(source: SlowExamples, config: Config, steps: int, seconds: float) -> tuple[float, str]:
    """The mean wait for a batch relative to a step of `seconds`, and a digest of all batches."""
    digest, waited = hashlib.sha256(), 0.0
    with Batches(source, config, make_mesh(config.mesh), start=0) as stream:
        batches = iter(stream)
        next(batches)  # the workers start
        time.sleep(10 * seconds)  # as the first step compiles
        for _ in range(steps):
            begun = time.perf_counter()
            batch, _ = next(batches)
            waited += time.perf_counter() - begun
            digest.update(np.asarray(batch["noise"]).tobytes())
            time.sleep(seconds)
    return waited / steps / seconds, digest.hexdigest()


# --- memory ----------------------------------------------------------------------------------------------------------


def measure_memory(root: Path) -> None:
    write_proteins(root / "raw", 40, residues=64, rows=64)
    prepare_set(root / "raw", root / "prepared")
    sizes = ["data.crop=32", "data.msa_clusters=16", "batch_size=4", "mesh.data=1", "data.workers=2"]
    for kind in ("raw", "prepared"):
        config = compose(["data=msa_dir", f"data.root={root / kind}", *sizes])
        with Batches(open_source(config), config, make_mesh(config.mesh), start=0) as stream:
            print(f"\n{kind} set of 40 proteins, 2 workers: MB of each, of this process")
            for number, _ in enumerate(islice(stream, EXAMPLES // 4), 1):
                if number in (25, 250) or number % (EXAMPLES // 4 // 4) == 0:
                    each = " ".join(f"{resident(pid):.0f}" for pid in workers())
                    print(f"  {4 * number:6d} examples  {each}, {resident(os.getpid()):.0f}", flush=True)


def workers() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    pids = sorted({int(pid) for task in tasks for pid in (task / "children").read_text().split()})
    return [pid for pid in pids if b"evotrain.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def resident(pid: int) -> float:
    """Megabytes of a process in memory, what it shares with others included."""
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1024


if __name__ == "__main__":
    main()
