"""What each choice of `data=…` delivers: training examples by their global index, and a fixed held-out set.

An example is a dict of numpy arrays of fixed shapes, a pure function of (seed, index): restarts, hosts and workers
cannot change it. Beside the features it holds `substituted` (float32, 1 where another protein had to step in) and the
strings `name` and `note`, which stay on the host.
"""

from typing import NamedTuple, Protocol

import grain
import numpy as np

from evotrain.config import Config
from evotrain.data.features.example import ExampleShape, example, example_shape
from evotrain.data.generated.coevolution import generate_family, shuffle_columns
from evotrain.data.generated.synthetic import gaussian_example
from evotrain.data.protein import Protein
from evotrain.data.sets.raw import MsaDir
from evotrain.data_config import CoevolutionConfig, MsaDirConfig

HOST_KEYS = ("name", "note")

# Streams of random numbers that a run's seed is split into.
TRAIN_FAMILIES, TRAIN_FEATURES, HELD_OUT_FAMILIES, HELD_OUT_FEATURES, COLUMN_SHUFFLES = range(5)
# Held-out families are the same for every seed, so that runs can be compared.
HELD_OUT_SEED = 0

Example = dict[str, np.ndarray]


class HeldOut(NamedTuple):
    """One held-out example, in what an evaluation compares."""

    example: Example
    shuffled: Example | None  # the same with the columns of its alignment shuffled
    msa: np.ndarray | None  # uint8 [M, n], all rows of the alignment over the n residues of the crop, for DCA


class Source(Protocol):
    """A data set."""

    held_out: int  # number of held-out examples
    description: str  # one line for the console

    def train(self, index: int) -> Example:
        """Training example `index` of the endless stream."""

    def evaluate(self, index: int) -> HeldOut:
        """Held-out example `index`."""


def open_source(config: Config) -> Source:
    """The configured data set.

    Raises:
      DataError: it cannot be used.
    """
    match config.data.source:
        case "synthetic":
            return SyntheticSource(config)
        case "coevolution":
            return FamilySource(config.data, example_shape(config), config.seed)
        case "msa_dir":
            return ProteinSource(config.data, example_shape(config), config.seed)
    raise AssertionError(config.data.source)


class SyntheticSource:
    """Gaussian MSA and pair representations of the model's own sizes."""

    def __init__(self, config: Config):
        self._seed = config.seed
        self._sizes = {
            "residues": config.data.crop,
            "sequences": config.data.msa_clusters,
            "c_m": config.model.c_m,
            "c_z": config.model.c_z,
        }
        self.held_out = config.data.eval_examples
        self.description = f"Gaussian tensors, {config.data.msa_clusters} sequences of {config.data.crop} residues"

    def train(self, index: int) -> Example:
        return self._example((self._seed, TRAIN_FEATURES), index)

    def evaluate(self, index: int) -> HeldOut:
        return HeldOut(self._example((HELD_OUT_SEED, HELD_OUT_FEATURES), index), None, None)

    def _example(self, stream: tuple[int, ...], index: int) -> Example:
        return gaussian_example(stream, index, **self._sizes) | _labels(f"gaussian-{index}", "")


class FamilySource:
    """Generated families, a new one at every index."""

    def __init__(self, config: CoevolutionConfig, shape: ExampleShape, seed: int):
        self._config, self._shape, self._seed = config, shape, seed
        self.held_out = config.eval_examples
        self.description = f"generated families, {config.msa_clusters} sequences of {config.crop} residues"

    def train(self, index: int) -> Example:
        family = generate_family((self._seed, TRAIN_FAMILIES), index, self._config)
        return _example(family, "", self._shape, (self._seed, TRAIN_FEATURES, index))

    def evaluate(self, index: int) -> HeldOut:
        family = generate_family((HELD_OUT_SEED, HELD_OUT_FAMILIES), index, self._config)
        return _held_out(family, "", self._shape, index)


class ProteinSource:
    """Proteins of a directory, shuffled anew in every epoch."""

    def __init__(self, config: MsaDirConfig, shape: ExampleShape, seed: int):
        self._shape, self._seed = shape, seed
        self._proteins = MsaDir(config)
        for ids in (self._proteins.train_ids, self._proteins.held_out_ids):
            self._proteins.load(ids[0])  # if nothing can be read, say so before anything is compiled
        self.held_out = min(len(self._proteins.held_out_ids), config.eval_examples)
        self.description = self._proteins.description
        count = len(self._proteins.train_ids)
        self._order = grain.MapDataset.source(range(count)).seed(seed).shuffle().repeat()

    def train(self, index: int) -> Example:
        protein, note = self._proteins.load(self._proteins.train_ids[self._order[index]])
        return _example(protein, note, self._shape, (self._seed, TRAIN_FEATURES, index))

    def evaluate(self, index: int) -> HeldOut:
        protein, note = self._proteins.load(self._proteins.held_out_ids[index])
        return _held_out(protein, note, self._shape, index)


def _example(
    protein: Protein, note: str, shape: ExampleShape, stream: tuple[int, ...], *, training: bool = True
) -> Example:
    features = example(protein, np.random.default_rng(stream), shape, training=training)
    return features | _labels(protein.name, note)


def _labels(name: str, note: str) -> Example:
    return {"name": np.asarray(name), "note": np.asarray(note), "substituted": np.float32(bool(note))}


def _held_out(protein: Protein, note: str, shape: ExampleShape, index: int) -> HeldOut:
    stream = (HELD_OUT_SEED, HELD_OUT_FEATURES, index)
    plain = _example(protein, note, shape, stream, training=False)
    rearranged = shuffle_columns(protein, np.random.default_rng((HELD_OUT_SEED, COLUMN_SHUFFLES, index)))
    crop = plain["residue_index"][plain["seq_mask"] > 0]  # residues are numbered from 0
    shuffled = _example(rearranged, note, shape, stream, training=False)
    return HeldOut(plain, shuffled, protein.msa[:, crop])
