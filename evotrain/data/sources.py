"""What each choice of `data=…` delivers: training examples by their global index, and a fixed held-out set.

An example is a dict of numpy arrays of fixed shapes, a pure function of (seed, index): restarts, hosts and workers
cannot change it. Beside the features it holds `skipped` (float32, the number of proteins that could not be read before
the one that it shows) and the strings `name` and `note`, which stay on the host.
"""

from itertools import permutations
from typing import NamedTuple, Protocol

import numpy as np

from evotrain.config import Config
from evotrain.data.features.example import ExampleShape, example, example_shape
from evotrain.data.generated.coevolution import family_size, generate_family, shuffle_columns
from evotrain.data.generated.synthetic import gaussian_example
from evotrain.data.reading import readers
from evotrain.data.sets.sampling import Mixture
from evotrain.data.sets.selection import Loaded, Selection
from evotrain.data_config import CoevolutionConfig, MixtureConfig, MsaDirConfig
from evotrain.errors import DataError, EvotrainError

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
    # Of what decides the order of the examples, by the beginning of a set's keys ("data." or "data.sets.NAME."); empty
    # for generated data.
    fingerprints: dict[str, str]

    def name(self, index: int) -> str:
        """What training example `index` shows unless that is broken, for messages; no file is read."""

    def held_out_name(self, index: int) -> str:
        """As `name`, of held-out example `index`."""

    def train(self, index: int) -> Example:
        """Training example `index` of the endless stream."""

    def evaluate(self, index: int) -> HeldOut:
        """Held-out example `index`."""


def open_source(config: Config) -> Source:
    """The configured data set. For `command=evaluate` what concerns training alone, as filters, is left out of account.

    Raises:
      DataError: it cannot be used.
    """
    match config.data.source:
        case "synthetic":
            return SyntheticSource(config)
        case "coevolution":
            return FamilySource(config.data, example_shape(config), config.seed)
        case "msa_dir" | "mixture":
            training = config.command != "evaluate"
            return ProteinSource(config.data, example_shape(config), config.seed, training=training)
    raise AssertionError(config.data.source)


class SyntheticSource:
    """Gaussian MSA and pair representations of the model's own sizes."""

    def __init__(self, config: Config):
        self.fingerprints: dict[str, str] = {}
        self._seed = config.seed
        self._sizes = {
            "residues": config.data.crop,
            "sequences": config.data.msa_clusters,
            "c_m": config.model.c_m,
            "c_z": config.model.c_z,
        }
        self.held_out = config.data.eval_examples
        self.description = f"Gaussian tensors, {config.data.msa_clusters} sequences of {config.data.crop} residues"

    def name(self, index: int) -> str:
        return f"gaussian-{index}"

    held_out_name = name

    def train(self, index: int) -> Example:
        return self._example((self._seed, TRAIN_FEATURES), index)

    def evaluate(self, index: int) -> HeldOut:
        return HeldOut(self._example((HELD_OUT_SEED, HELD_OUT_FEATURES), index), None, None)

    def _example(self, stream: tuple[int, ...], index: int) -> Example:
        return gaussian_example(stream, index, **self._sizes) | _labels(self.name(index), "", 0)


class FamilySource:
    """Generated families, a new one at every index."""

    def __init__(self, config: CoevolutionConfig, shape: ExampleShape, seed: int):
        self.fingerprints: dict[str, str] = {}
        self._config, self._shape, self._seed = config, shape, seed
        self.held_out = config.eval_examples
        length, depth = family_size(config)
        self.description = f"generated families, {depth} sequences of {length} residues"

    def name(self, index: int) -> str:
        return f"family-{self._seed}-{TRAIN_FAMILIES}-{index}"

    def held_out_name(self, index: int) -> str:
        return f"family-{HELD_OUT_SEED}-{HELD_OUT_FAMILIES}-{index}"

    def train(self, index: int) -> Example:
        family = generate_family((self._seed, TRAIN_FAMILIES), index, self._config)
        return _example(Loaded(family, 0, ""), self._shape, (self._seed, TRAIN_FEATURES, index))

    def evaluate(self, index: int) -> HeldOut:
        family = generate_family((HELD_OUT_SEED, HELD_OUT_FAMILIES), index, self._config)
        return _held_out(Loaded(family, 0, ""), self._shape, index)


class ProteinSource:
    """Proteins on disk, of one set or of a mixture of several, each set shuffled anew in every one of its epochs.

    Unless `training`, filters and weights are left out of account, and there need be nothing to train on. Raises
    DataError if a set cannot be used or leaves nothing to train on, if none holds anything out, or if no protein of a
    split can be read.
    """

    def __init__(self, config: MsaDirConfig | MixtureConfig, shape: ExampleShape, seed: int, *, training: bool = True):
        self._shape, self._seed = shape, seed
        self._sets = _open_sets(config, seed, training)
        self._mixture = Mixture([part.weight for part in self._sets])
        # The first of every set, then the second of every set: a few of many are of all sets.
        self._held_out = sorted(
            (place, number)
            for number, part in enumerate(self._sets)
            for place in range(min(len(part.selection.held_out_ids), config.eval_examples))
        )[: config.eval_examples]
        self.held_out = len(self._held_out)
        # If nothing can be read, say so before anything is compiled.
        with readers(Selection.check, config.timeout, named=_first_proteins) as workers:
            for part in self._sets:
                workers.run(part.selection)

    @property
    def description(self) -> str:
        return _describe(self._sets)

    @property
    def fingerprints(self) -> dict[str, str]:
        return {
            f"data.sets.{part.name}." if part.name else "data.": f"{part.weight} {part.selection.fingerprint}"
            for part in self._sets
        }

    def name(self, index: int) -> str:
        number, place = self._mixture[index]
        return self._sets[number].selection.name(place)

    def held_out_name(self, index: int) -> str:
        place, number = self._held_out[index]
        return self._sets[number].selection.held_out_ids[place]

    def train(self, index: int) -> Example:
        number, place = self._mixture[index]
        selection = self._sets[number].selection
        stream = (self._seed, TRAIN_FEATURES, index)
        return _example(selection.train(place), self._shape, stream, max_rows=selection.config.max_rows)

    def evaluate(self, index: int) -> HeldOut:
        place, number = self._held_out[index]
        selection = self._sets[number].selection
        return _held_out(selection.evaluate(place), self._shape, index, max_rows=selection.config.max_rows)


class _MixedSet(NamedTuple):
    name: str  # empty where there is but one
    weight: float
    selection: Selection


def _open_sets(config: MsaDirConfig | MixtureConfig, seed: int, training: bool) -> list[_MixedSet]:
    """The sets sorted by name, each with a seed of its own."""
    if isinstance(config, MsaDirConfig):
        sets = [_MixedSet("", 1.0, Selection(config, seed, config.only, training=training))]
    else:
        sets = []
        for number, (name, part) in enumerate(sorted(config.sets.items())):
            try:
                selection = Selection(part, (seed + number) % 2**32, training=training)
            except EvotrainError as error:
                raise type(error)(f"data.sets.{name}: {error}") from None
            sets.append(_MixedSet(name, part.weight, selection))
    for part in sets:
        if training and not part.selection.train_ids:
            raise _nothing_left("train on", [part])
    if not any(part.selection.held_out_ids for part in sets):
        raise _nothing_left("evaluate on", sets)
    return sets


def _first_proteins(selection: Selection) -> str:
    """Those that `Selection.check` reads."""
    first = [ids[0] for ids in (selection.train_ids, selection.held_out_ids) if ids]
    return f"{' or '.join(first)} of {selection.root}"


def _nothing_left(to: str, sets: list[_MixedSet]) -> DataError:
    proteins = sets[0].selection.proteins
    roots = ", ".join(str(part.selection.root) for part in sets)
    remedy = "change data.eval_fraction, or give index.csv a split column with train and val"
    if len(sets) == 1 and len(proteins.ids) == 1:
        remedy = f"write data.only={proteins.ids[0]} to train on this one and evaluate on it too"
    return DataError(f"{roots}: no protein is left to {to} ({_describe(sets)}); {remedy}.")


def _describe(sets: list[_MixedSet]) -> str:
    if len(sets) == 1:
        return sets[0].selection.description
    total = sum(part.weight for part in sets)
    parts = " + ".join(f"{part.weight / total:.0%} {part.name}: {part.selection.description}" for part in sets)
    seen = sum(
        len(set(one.selection.held_out_ids).intersection(other.selection.train_ids))
        for one, other in permutations(sets, 2)
    )
    return parts + (f"; of the held-out ids {seen} are trained on in another set" if seen else "")


def _example(
    loaded: Loaded,
    shape: ExampleShape,
    stream: tuple[int, ...],
    *,
    training: bool = True,
    max_rows: int | None = None,
) -> Example:
    features = example(loaded.protein, np.random.default_rng(stream), shape, training=training, max_rows=max_rows)
    return features | _labels(loaded.protein.name, loaded.note, loaded.skipped)


def _labels(name: str, note: str, skipped: int) -> Example:
    return {"name": np.asarray(name), "note": np.asarray(note), "skipped": np.float32(skipped)}


def _held_out(loaded: Loaded, shape: ExampleShape, index: int, max_rows: int | None = None) -> HeldOut:
    protein = loaded.protein
    stream = (HELD_OUT_SEED, HELD_OUT_FEATURES, index)
    plain = _example(loaded, shape, stream, training=False, max_rows=max_rows)
    rearranged = shuffle_columns(protein, np.random.default_rng((HELD_OUT_SEED, COLUMN_SHUFFLES, index)))
    shuffled = _example(loaded._replace(protein=rearranged), shape, stream, training=False, max_rows=max_rows)
    crop = np.isin(protein.residue_index, plain["residue_index"][plain["seq_mask"] > 0])
    return HeldOut(plain, shuffled, protein.msa[:, crop])
