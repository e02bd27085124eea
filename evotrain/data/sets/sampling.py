"""How often each protein is trained on, and in which order (AlphaFold 2, Suppl. 1.2.5).

Which protein an example shows is a pure function of the seed and the example's index, found without going through the
examples before it. Shares are exact: they do not fluctuate as independent draws would.
"""

from collections.abc import Sequence

import numpy as np

from evotrain.data.sets.facts import Facts
from evotrain.data_config import ProteinSetConfig

SHORTEST, LONGEST = 256, 512  # residues between which length decides about acceptance

# Probabilities as whole numbers, so that sums over epochs are exact.
_ONE = 2**32
# Streams of random numbers.
_OFFSETS, _SHUFFLES = range(2)


def needs_facts(config: ProteinSetConfig) -> bool:
    """Whether a filter or weight looks at the facts of proteins."""
    return config.weigh_length or bool(filters(config))


def filters(config: ProteinSetConfig) -> list[str]:
    """The filters that are set, as key=value."""
    names = ("released_before", "max_resolution", "max_repeat")
    return [f"data.{name}={getattr(config, name)}" for name in names if getattr(config, name) is not None]


def acceptance(facts: Facts | None, members_of_cluster: int, config: ProteinSetConfig) -> float:
    """The probability, 0 … 1, with which an epoch shows a protein; 0 if a filter leaves it out.

    A structure without a known date is not known to be released before any; one without a resolution passes any, as NMR
    structures and predictions do. `facts` may be None where `needs_facts` says so.
    """
    accepted = 1 / members_of_cluster if config.weigh_cluster else 1.0
    if facts is None:
        return accepted
    if config.released_before is not None and not "" < facts.release_date < config.released_before:
        return 0.0
    if config.max_resolution is not None and facts.resolution > config.max_resolution:
        return 0.0
    if config.max_repeat is not None and facts.repeat > config.max_repeat:
        return 0.0
    return accepted * (min(max(facts.length, SHORTEST), LONGEST) / LONGEST if config.weigh_length else 1.0)


class Order:
    """The endless order in which proteins are shown: `order[index]` is the place of a protein in `acceptance`.

    Every epoch is a shuffle of those proteins that it accepts. Over e epochs a protein with acceptance a is accepted
    ⌊e a⌋ or ⌈e a⌉ times, in any epoch with the probability a; with acceptance 1, always. Indices go up to 2³².
    """

    def __init__(self, seed: int, acceptance: Sequence[float]):
        """`acceptance` [P], each in (0, 1]."""
        self._seed = seed
        self._share = np.maximum(np.rint(np.asarray(acceptance, float) * _ONE), 1).astype(np.uint64)
        assert self._share.size
        assert self._share.max() <= _ONE
        self._offset = _generator(seed, _OFFSETS).integers(_ONE, size=self._share.size, dtype=np.uint64)
        # The first example of an epoch and its places. Two, for of examples prepared at the same time some are of the
        # next epoch already.
        self._recent: tuple[tuple[int, np.ndarray], ...] = ()

    def __getitem__(self, index: int) -> int:
        index = int(index)  # beyond the range of numpy's, once multiplied
        for start, places in self._recent:
            if 0 <= index - start < len(places):
                return int(places[index - start])
        start, places = epoch = self._epoch(self._find(index))
        self._recent = (epoch, *self._recent[:1])
        return int(places[index - start])

    def _times(self, epochs: int) -> np.ndarray:
        """How often each protein is accepted in the first so many epochs, uint64 [P]."""
        return (np.uint64(epochs) * self._share + self._offset) // np.uint64(_ONE)

    def _find(self, index: int) -> int:
        """The epoch that holds example `index`: the last one that starts at it or before."""
        low, high = 0, (index + 1) * _ONE // int(self._share.max()) + 1  # the most accepted one alone comes more often
        while high - low > 1:
            middle = (low + high) // 2
            if int(self._times(middle).sum()) <= index:
                low = middle
            else:
                high = middle
        return low

    def _epoch(self, number: int) -> tuple[int, np.ndarray]:
        """The first example of an epoch, and the places of its examples."""
        before, after = self._times(number), self._times(number + 1)
        return int(before.sum()), _generator(self._seed, _SHUFFLES, number).permutation(np.flatnonzero(after > before))


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


class Mixture:
    """Which of several sets each example comes from, and which example of that set it is.

    Of the first n examples w_k n are of set k, up to rounding, for weights w that add up to 1.
    """

    def __init__(self, weights: Sequence[float]):
        """`weights`, all above 0; only their ratios count."""
        # Each set takes its share of what the sets before it leave over.
        rest = np.cumsum(np.asarray(weights, float)[::-1])[::-1]
        self._shares = [round(weight / left * _ONE) for weight, left in zip(weights, rest, strict=True)]

    def __getitem__(self, index: int) -> tuple[int, int]:
        index = int(index)
        for number, share in enumerate(self._shares):
            before = index * share // _ONE
            if (index + 1) * share // _ONE > before:
                return number, before
            index -= before
        raise AssertionError("the last share is all that is left")
