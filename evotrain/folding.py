"""From an alignment to a structure: features in a bucket of sizes, and passes until the structure moves no more.

Dimensions: n residues of a protein, N ≥ n residues of the bucket that it is padded to.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from evotrain.config import Config, ModelConfig
from evotrain.data.features.example import ExampleShape, Features, example, example_shape
from evotrain.data.features.padding import pad, padded_size
from evotrain.data.protein import CA_ATOM, NUM_ATOMS, UNKNOWN, Protein
from evotrain.data.queries import Query
from evotrain.errors import DataError, RunError
from evotrain.metrics import pair_distances
from evotrain.model.network import RESAMPLED
from evotrain.model.recycling import Recycled
from evotrain.parallel import distributed
from evotrain.parallel.mesh import context_shards, pair_rows_sharding, replicated_sharding

# Buckets of residues are multiples of 32, and from 256 residues on at most an eighth larger than the protein.
LEAST_STEP, STEPS_PER_OCTAVE = 32, 8
# Buckets of rows grow by this factor, up to the rows that the configuration names.
LEAST_ROWS, ROWS_FACTOR = 32, 4

Arrays = dict[str, Any]
# (parameters, features of one pass, what the pass before left) -> (predictions, what this one leaves)
Step = Callable[[Any, Arrays, Recycled], tuple[Arrays, Recycled]]


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A predicted structure and what the network says of it."""

    name: str
    aatype: np.ndarray  # int [n]
    positions: np.ndarray  # [n, 37, 3] in Å
    mask: np.ndarray  # [n, 37], 1 for the atoms of the residue
    plddt: np.ndarray  # [n], 0 to 100
    contact_probability: np.ndarray  # [n, n]
    aligned_error: np.ndarray | None  # [n, n] in Å; None if the network does not predict it
    ptm: float | None  # likewise
    changes: list[float]  # Å, of the Cα distances from each pass to the next: one fewer than passes
    tolerance: float  # Å, the change at which it counts as converged


class Folding:
    """Folds one protein after another with the same parameters; `report` is given lines for the console."""

    def __init__(self, config: Config, mesh: Mesh, step: Step, params: Any, report: Callable[[str], None]):
        self._config, self._mesh, self._step, self._params, self._report = config, mesh, step, params, report
        self._compiled: set[ExampleShape] = set()

    def fold(self, query: Query) -> Fold:
        """Reads and folds a protein.

        Raises:
          DataError: it cannot be read, has no known residue, or does not fit into the memory of the devices.
          RunError: the prediction is not finite.
        """
        config, mesh = self._config, self._mesh
        protein = query.load()
        depth, length = protein.msa.shape
        known = np.flatnonzero(protein.msa[0] < UNKNOWN)
        if not known.size:
            raise DataError(f"none of its {length} residues is known: there is nothing to fold.")
        shape = bucket_shape(example_shape(config), depth, length)
        if shape not in self._compiled:
            self._compiled.add(shape)
            self._report(f"Compiling for up to {shape.crop} residues and {shape.msa_clusters} MSA rows …")
        start = time.monotonic()
        features = pass_features(protein, shape, config.seed, context_shards(mesh))

        def step(recycled: Recycled) -> tuple[Arrays, Recycled]:
            outputs, recycled = self._step(self._params, next(features), recycled)
            # Where the first pass found its zeros, or the next one would be compiled anew.
            return outputs, jax.device_put(recycled, recycled_shardings(mesh))

        passes = config.predict.recycles + 1 if config.model.recycles else 1
        tolerance = config.predict.tolerance
        with _memory_errors(length):
            first = nothing_recycled(config.model, shape.crop, mesh)
            outputs, changes = recycle(step, first, known, passes=passes, tolerance=tolerance)
        fold = _cut_out(query.name, protein.msa[0], outputs, changes, tolerance)
        self._report(_line(fold, depth, time.monotonic() - start))
        return fold


def recycle(
    step: Callable[[Recycled], tuple[Arrays, Recycled]],
    recycled: Recycled,
    residues: np.ndarray,
    *,
    passes: int,
    tolerance: float,
) -> tuple[Arrays, list[float]]:
    """Passes over a protein until it moves no more: the last one's predictions, and the changes between passes in Å.

    At most `passes` are made. A change is the root mean square difference of all distances between the Cα of
    `residues`, int [K], those that have atoms; a pass with one below `tolerance` Å is the last.

    Raises:
      RunError: a position is not finite.
    """
    changes: list[float] = []
    before = None
    for _ in range(passes):
        outputs, recycled = step(recycled)
        ca = np.asarray(outputs["atom_positions"])[residues, CA_ATOM]
        if not np.isfinite(ca).all():
            raise RunError("the predicted positions are not finite: name other parameters, or write precision=fp32.")
        distances = pair_distances(ca)
        if before is not None:
            changes.append(float(np.sqrt(np.mean((distances - before) ** 2))))
            if changes[-1] < tolerance:
                break
        before = distances
    return jax.device_get(outputs), changes


def residue_bucket(length: int) -> int:
    """The residues that a protein is padded to: one of few numbers."""
    octave = 2 ** (length - 1).bit_length() // 2
    return padded_size(length, max(LEAST_STEP, octave // STEPS_PER_OCTAVE))


def row_bucket(depth: int, most: int) -> int:
    """The rows that an alignment of `depth` rows is padded to: one of few numbers, at most `most`.

    Padding changes no prediction, but a lone sequence folds several times faster without most of it.
    """
    rows = LEAST_ROWS
    while rows < min(depth, most):
        rows *= ROWS_FACTOR
    return min(rows, most)


def bucket_shape(shape: ExampleShape, depth: int, length: int) -> ExampleShape:
    """The padded shape of one pass over an alignment [depth, length], without labels."""
    clusters = row_bucket(depth, shape.msa_clusters)
    extra = row_bucket(depth - clusters, shape.extra_msa) if shape.extra_msa else 0
    crop = residue_bucket(length)
    return replace(shape, crop=crop, msa_clusters=clusters, extra_msa=extra, passes=1, structure=False)


def pass_features(protein: Protein, shape: ExampleShape, seed: int, devices: int) -> Iterator[Features]:
    """The features of pass after pass, each with its own sample of the alignment: a function of protein and seed.

    Beyond `shape` they are padded for the `devices` that share them.
    """
    rng = np.random.default_rng(seed)
    while True:
        features = example(protein, rng, shape, training=False)
        yield pad({name: x[0] if name in RESAMPLED else x for name, x in features.items()}, devices)


def nothing_recycled(model: ModelConfig, residues: int, mesh: Mesh) -> Recycled:
    """What the first pass over so many residues, padded for the devices, starts from: zeros."""
    residues = padded_size(residues, context_shards(mesh))
    shapes = Recycled((residues, model.c_m), (residues, residues, model.c_z), (residues, NUM_ATOMS, 3))
    placed = zip(shapes, recycled_shardings(mesh), strict=True)
    return Recycled(*(jnp.zeros(shape, jnp.float32, device=sharding) for shape, sharding in placed))


def recycled_shardings(mesh: Mesh) -> Recycled:
    """How the devices hold what one pass hands to the next."""
    whole = replicated_sharding(mesh)
    return Recycled(whole, pair_rows_sharding(mesh), whole)


@contextmanager
def _memory_errors(length: int) -> Iterator[None]:
    """Turns the devices' lack of memory into a DataError about a protein of `length` residues."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DataError(
            f"its {length} residues do not fit into the memory of {distributed.device_kind()}: write "
            "kernels=xla_chunked, smaller data.msa_clusters and data.extra_msa, or mesh.context=… for several devices."
        ) from error


def _cut_out(name: str, query: np.ndarray, outputs: Arrays, changes: list[float], tolerance: float) -> Fold:
    """The prediction without its padding."""
    n = len(query)
    error, ptm = outputs.get("aligned_error"), outputs.get("ptm")
    return Fold(
        name=name,
        aatype=query,
        positions=outputs["atom_positions"][:n],
        mask=outputs["atom_mask"][:n],
        plddt=outputs["plddt"][:n],
        contact_probability=outputs["contact_probability"][:n, :n],
        aligned_error=None if error is None else error[:n, :n],
        ptm=None if ptm is None else float(ptm),
        changes=changes,
        tolerance=tolerance,
    )


def _line(fold: Fold, depth: int, seconds: float) -> str:
    """What the console shows of a protein."""
    passes = len(fold.changes) + 1
    pieces = [
        f"{fold.name}: {len(fold.aatype)} residues, {depth} sequence{'' if depth == 1 else 's'}",
        f"pLDDT {fold.plddt.mean():.1f}",
        *([] if fold.ptm is None else [f"pTM {fold.ptm:.2f}"]),
        f"{passes} pass{'' if passes == 1 else 'es'}"
        + (f", the last moved distances by {fold.changes[-1]:.2f} Å" if fold.changes else ""),
        f"{seconds:.1f} s",
    ]
    return "  ".join(pieces)
