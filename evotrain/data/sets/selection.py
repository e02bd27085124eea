"""One set of proteins as it is used: which are trained on, how often and in which order, and which are held out."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from evotrain.data.protein import Protein
from evotrain.data.sets.facts import Facts
from evotrain.data.sets.index import INDEX_FILE, cluster_of, split_ids
from evotrain.data.sets.protein_set import open_set
from evotrain.data.sets.raw import RawSet
from evotrain.data.sets.sampling import Order, acceptance, filters, needs_facts
from evotrain.data_config import ProteinSetConfig
from evotrain.errors import DataError

# Raw proteins whose facts are looked for, each by reading all of its files: above this a start would take hours.
MOST_RAW_FACTS = 5000


class Loaded(NamedTuple):
    """A protein, or what came in its place."""

    protein: Protein
    skipped: int  # proteins that could not be read before it
    note: str  # "<id>: <reason>" of the first of them; empty if there is none


class Selection:
    """The proteins of a set to train on, `train_ids`, and those held out, `held_out_ids`, both sorted.

    The split depends on the directory and `eval_fraction` alone, so that no seed and no filter moves a protein from one
    side to the other; filters and weights concern training, and are left alone unless `training`. Raises DataError if
    the set cannot be used, or if `only` names no protein of it; either side may be empty.
    """

    def __init__(self, config: ProteinSetConfig, seed: int, only: str | None = None, *, training: bool = True):
        self.config = config
        self._training = training
        self.proteins = open_set(config)
        self.root = self.proteins.root
        split = split_ids(self.root, self.proteins.ids, self.proteins.index, config.eval_fraction, only)
        self._candidates, self.held_out_ids, self._rule = split
        self._failures: dict[str, str] = {}  # of those whose facts were looked for
        accepted = self._accept(self._candidates) if training else dict.fromkeys(self._candidates, 1.0)
        self.train_ids = list(accepted)
        self._acceptance = list(accepted.values())
        self._order = Order(seed, self._acceptance) if accepted else None

    @property
    def description(self) -> str:
        """One line for the console."""
        left, failed = len(self.train_ids), len(self._failures)
        filtered = f", of which {left} pass the filters" if left + failed < len(self._candidates) else ""
        remarks = [self.proteins.description] if self.proteins.description else []
        if failed and isinstance(self.proteins, RawSet):  # a prepared set says so itself
            name, reason = next(iter(self._failures.items()))
            remarks.append(f"{failed} to train on could not be read (first: {name}: {reason.rstrip('.')})")
        counts = (
            f"{len(self.proteins.ids)} proteins, {len(self._candidates)} train{filtered}, {len(self.held_out_ids)} "
            f"held out (by {self._rule})"
        )
        return "; ".join([counts, *remarks])

    @property
    def fingerprint(self) -> str:
        """Of what decides which protein an example shows, beside the seed; the same for raw and prepared files."""
        content = json.dumps([self.train_ids, self._acceptance, self.held_out_ids])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def check(self) -> None:
        """Raises DataError if no protein of a split can be read."""
        for ids in (self.train_ids if self._training else [], self.held_out_ids):
            if ids:
                self._load(ids, 0)

    def name(self, index: int) -> str:
        """The id of the protein that training example `index` shows, if it can be read."""
        return self.train_ids[self._order[index]]

    def train(self, index: int) -> Loaded:
        """The protein of training example `index`; or, if it cannot be read, the next one that can.

        Raises DataError if no protein of the split can be read.
        """
        return self._load(self.train_ids, self._order[index])

    def evaluate(self, place: int) -> Loaded:
        """As `train`, of the held-out proteins in the order of their ids."""
        return self._load(self.held_out_ids, place)

    def _accept(self, ids: Sequence[str]) -> dict[str, float]:
        """The acceptance of those proteins that are trained on.

        A cluster has as many members as pass the filters.
        """
        index, config = self.proteins.index, self.config
        if ids and config.weigh_cluster and not any(index.get(name, {}).get("cluster") for name in ids):
            raise DataError(
                f"data.weigh_cluster has nothing to weigh: give {self.root / INDEX_FILE} a column cluster, or write "
                "data.weigh_cluster=false."
            )
        facts = self._facts(ids) if needs_facts(config) else dict.fromkeys(ids)
        if ids and not facts:
            name, reason = next(iter(self._failures.items()))
            raise self._unreadable(ids, f"{name}: {reason}")
        clusters = {name: cluster_of(name, index) for name in facts}
        passing = [name for name in facts if acceptance(facts[name], 1, config)]
        if ids and not passing:
            raise DataError(
                f"{self.root}: none of the {len(ids)} proteins to train on passes {', '.join(filters(config))} (a "
                "structure without a date passes no date); loosen a filter."
            )
        members = Counter(clusters[name] for name in passing)
        return {name: acceptance(facts[name], members[clusters[name]], config) for name in passing}

    def _facts(self, ids: Sequence[str]) -> dict[str, Facts]:
        """The facts of those proteins that can be read; why the others cannot is kept."""
        if isinstance(self.proteins, RawSet) and len(ids) > MOST_RAW_FACTS:
            asking = [*filters(self.config), *(["data.weigh_length=true"] if self.config.weigh_length else [])]
            raise DataError(
                f"{self.root}: {', '.join(asking)} would read the raw files of all {len(ids)} proteins at every start, "
                f"and more than {MOST_RAW_FACTS} take too long: run command=prepare first, and train on what it writes."
            )
        facts = {}
        for name in ids:
            try:
                facts[name] = self.proteins.facts(name)
            except DataError as error:
                self._failures[name] = str(error)
        return facts

    def _load(self, ids: Sequence[str], place: int) -> Loaded:
        failure = ""
        for skipped in range(len(ids)):
            name = ids[(place + skipped) % len(ids)]
            try:
                return Loaded(self._read(name), skipped, failure)
            except DataError as error:
                failure = failure or f"{name}: {error}"
        raise self._unreadable(ids, failure)

    def _unreadable(self, ids: Sequence[str], failure: str) -> DataError:
        return DataError(f"{self.root}: none of the {len(ids)} proteins of the split can be read; {failure}")

    def _read(self, name: str) -> Protein:
        protein = self.proteins.read(name)
        return protein if self.config.min_plddt is None else hide_uncertain(protein, self.config.min_plddt)


def hide_uncertain(protein: Protein, min_plddt: float) -> Protein:
    """The protein without the atoms of residues whose pLDDT, the B-factor of Cα, is lower.

    Raises DataError if that leaves no atom, as where the B-factors are no pLDDT.
    """
    mask = protein.atom_mask * (protein.b_factor >= min_plddt)[:, None]
    if not mask.any():
        raise DataError(
            f"{protein.name} has no residue with a pLDDT of {min_plddt:g} (data.min_plddt); leave it out, or keep "
            "predicted structures with their pLDDT as B-factors."
        )
    return replace(protein, atom_mask=mask)
