"""Evaluation on the held-out split, beside what the same alignments give without a network."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from evotrain import figures, structure_figures
from evotrain.config import Config
from evotrain.contacts import CONTACT_CUTOFF, KEYS, LONG_RANGE, contact_precision, mean_precision
from evotrain.data.pipeline import local_rows, stack, to_devices
from evotrain.data.reading import readers
from evotrain.data.sources import Example, HeldOut, Source
from evotrain.dca import contact_scores
from evotrain.metrics import structure_metrics
from evotrain.parallel.mesh import batch_sharding, batch_shards
from evotrain.workers import available_cores

SPLIT = "eval/held_out"
PARTIAL = ("contact/", "structure/")  # metrics that not every protein has
Metrics = dict[str, float]
Row = dict[str, str | float]


@dataclass(frozen=True)
class Report:
    """What an evaluation found."""

    metrics: Metrics
    pictured: "Prediction | None"  # the held-out protein with the most long-range contacts, if any has some
    notes: list[str]  # which examples could not be read, and why
    rows: list[dict[str, str | float]]  # name, residues and metrics of each protein


@dataclass(frozen=True)
class Prediction:
    """One protein's predicted maps beside the truth, over its n residues without padding."""

    name: str
    probability: np.ndarray  # [n, n] of a contact
    distance: np.ndarray  # [n, n] expected, in Å
    positions: np.ndarray  # [n, 3] pseudo-β in Å
    mask: np.ndarray  # [n] 1 where observed
    residue_index: np.ndarray  # [n]
    precision: float  # long range at L
    baseline: np.ndarray  # [n, n] DCA scores
    baseline_precision: float
    plddt: np.ndarray | None  # [n], of a model that folds


class Evaluation:
    """The held-out examples of a source, and the compiled step that judges parameters on them."""

    def __init__(self, source: Source, config: Config, mesh: Mesh, step: Callable[[Any, Any], Any], examples: int):
        self._source, self._step, self._examples = source, step, examples
        # No larger than the set asks for, and a multiple of what the devices share.
        shards = batch_shards(mesh)
        self._batch_size = min(config.batch_size, math.ceil(examples / shards) * shards)
        self._sharding = batch_sharding(mesh)
        self._rows = local_rows(self._sharding, self._batch_size)
        self._minutes, self._residues = config.data.timeout, config.data.crop
        self._baseline: list[Metrics] | None = None

    def run(self, params: Any) -> Report:
        """Metrics of `params`, averaged over the held-out examples; the same on every process.

        With alignments there are, beside the losses, long-range contact precisions: of the model (`contact/…`), of the
        model on alignments whose columns were shuffled (`permuted/…`), of direct coupling analysis (`dca/…`), and of
        guessing (`contact/chance`). `data/substituted` is the number of examples that another one had to step in for.
        """
        notes: list[str] = []
        rows: list[Row] = []
        permuted: list[Metrics] = []
        baseline: list[Metrics] = []
        pictured, most = None, 0
        with closing(self._batches()) as batches:
            for held_out in batches:
                judged = self._judge(params, [each.example for each in held_out])
                notes += [note for each in held_out if (note := str(each.example["note"]))]
                rows += [_row(each.example, *found) for each, found in zip(held_out, judged, strict=True)]
                if held_out[0].msa is None:
                    continue
                without = self._judge(params, [each.shuffled for each in held_out])
                for each, (_, predicted), (_, shuffled) in zip(held_out, judged, without, strict=True):
                    permuted.append(_precision(shuffled["contact_probability"], each.example))
                    if self._baseline is None:
                        baseline.append(_precision(_dca(each), each.example))
                    if (contacts := _long_range_contacts(each.example)) > most:
                        pictured, most = (each, predicted), contacts
        if self._baseline is None:
            self._baseline = baseline
        metrics = _average(rows) | _contacts(permuted, self._baseline) | {"data/substituted": len(notes)}
        return Report(metrics, pictured and _prediction(*pictured), notes, rows)

    def _batches(self) -> Iterator[list[HeldOut]]:
        """The held-out examples; those of the next batch are read meanwhile."""
        reading = readers(
            self._source.evaluate,
            self._minutes,
            named=lambda index: f"held-out example {index} ({self._source.held_out_name(index)})",
            count=min(available_cores(), self._batch_size),
        )
        with reading, closing(reading.run_all(range(self._examples), ahead=self._batch_size)) as examples:
            while batch := list(islice(examples, self._batch_size)):
                yield batch

    def _judge(self, params: Any, examples: list[Example]) -> list[tuple[Metrics, dict[str, np.ndarray]]]:
        """Metrics and predictions of up to a batch of examples; a shorter one is filled up with its last example."""
        filled = examples + examples[-1:] * (self._batch_size - len(examples))
        batch = to_devices(stack([filled[row] for row in self._rows]), self._rows, self._batch_size, self._sharding)
        metrics, maps, residues = _fetch(self._step(params, batch))
        n = self._residues  # without what the devices' shares are padded with
        predicted = {name: x[:, :n, :n] for name, x in maps.items()}
        predicted |= {name: x[:, :n] if x.ndim > 1 else x for name, x in residues.items()}
        return [
            ({name: float(x[row]) for name, x in metrics.items()}, {name: x[row] for name, x in predicted.items()})
            for row in range(len(examples))
        ]


def draw(report: Report, directory: Path) -> dict[str, Path]:
    """Writes the figures of a report and returns their paths by name."""
    if report.pictured is None:
        return {}
    p = report.pictured
    true = np.sqrt(((p.positions[:, None] - p.positions[None]) ** 2).sum(-1))
    paths = {"contacts": directory / "contacts.png", "distances": directory / "distances.png"}
    figures.contact_maps(
        paths["contacts"],
        name=p.name,
        probability=p.probability,
        contacts=true < CONTACT_CUTOFF,
        baseline=p.baseline,
        mask=p.mask,
        precision=p.precision,
        baseline_precision=p.baseline_precision,
        residue_index=p.residue_index + 1,  # features number residues from 0, people from 1
    )
    figures.distance_map(paths["distances"], name=p.name, expected=p.distance, true=true, mask=p.mask)
    if p.plddt is not None:
        paths["plddt"] = directory / "plddt.png"
        structure_figures.plddt_along_chain(paths["plddt"], name=p.name, plddt=p.plddt)
    return paths


def _fetch(tree: Any) -> Any:
    """Whole arrays on the host of every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _precision(scores: np.ndarray, example: Example) -> Metrics:
    return contact_precision(scores, example["pseudo_beta"], example["pseudo_beta_mask"], example["residue_index"])


def _long_range_contacts(example: Example) -> int:
    """How many observed long-range pairs touch."""
    observed = example["pseudo_beta_mask"] > 0
    positions, index = example["pseudo_beta"][observed], example["residue_index"][observed]
    distance = np.sqrt(((positions[:, None] - positions[None]) ** 2).sum(-1))
    return int(((distance < CONTACT_CUTOFF) & (index[None] - index[:, None] >= LONG_RANGE)).sum())


def _dca(held_out: HeldOut) -> np.ndarray:
    """DCA scores [N, N] of the whole alignment, 0 where the example is padded."""
    scores = contact_scores(held_out.msa)
    return np.pad(scores, (0, len(held_out.example["seq_mask"]) - len(scores)))


def _row(example: Example, metrics: Metrics, predicted: dict[str, np.ndarray]) -> Row:
    """All that is known of one protein."""
    row: Row = {"name": str(example["name"])} | metrics
    if "contact_probability" in predicted:
        row |= {"residues": int(example["seq_mask"].sum())} | _precision(predicted["contact_probability"], example)
    if "atom_positions" in predicted:
        labels = example["all_atom_positions"], example["all_atom_mask"]
        row |= structure_metrics(predicted["atom_positions"], predicted["atom_mask"], *labels)
        row["structure/plddt"] = float(predicted["plddt"][example["seq_mask"] > 0].mean())
    return row


def _prediction(held_out: HeldOut, predicted: dict[str, np.ndarray]) -> Prediction:
    example, dca = held_out.example, _dca(held_out)
    n = int(example["seq_mask"].sum())
    at_length = next(iter(KEYS))
    return Prediction(
        name=str(example["name"]),
        probability=predicted["contact_probability"][:n, :n],
        distance=predicted["expected_distance"][:n, :n],
        positions=example["pseudo_beta"][:n],
        mask=example["pseudo_beta_mask"][:n],
        residue_index=example["residue_index"][:n],
        precision=_precision(predicted["contact_probability"], example)[at_length],
        baseline=dca[:n, :n],
        baseline_precision=_precision(dca, example)[at_length],
        plddt=predicted["plddt"][:n] if "plddt" in predicted else None,
    )


def _average(rows: list[Row]) -> Metrics:
    """The mean of each metric, and the perplexity of the mean masked-MSA loss.

    A protein for which a contact or structure metric is not defined does not count there.
    """
    names = [name for name in rows[0] if name not in ("name", "residues")]
    means = {name: _mean([row[name] for row in rows], partial=name.startswith(PARTIAL)) for name in names}
    if "loss/masked_msa" in means:
        means["masked_msa/perplexity"] = float(np.exp(means["loss/masked_msa"]))
    return means


def _mean(values: list[float], *, partial: bool) -> float:
    known = [value for value in values if not (partial and math.isnan(value))]
    return float(np.mean(known)) if known else math.nan


def _contacts(permuted: list[Metrics], baseline: list[Metrics]) -> Metrics:
    """The baselines of contact precision."""
    if not permuted:
        return {}
    result = {}
    for prefix, rows in (("permuted", permuted), ("dca", baseline)):
        means = mean_precision(rows)
        result |= {name.replace("contact", prefix, 1): means[name] for name in KEYS}
    return result
