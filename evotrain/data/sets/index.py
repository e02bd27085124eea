"""The table of a data set, index.csv, and which proteins it holds out.

Raw and prepared directories split by the same rule, so that both train on the same proteins.
"""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from evotrain.errors import DataError
from evotrain.explain import did_you_mean

INDEX_FILE = "index.csv"
COLUMNS = ("chain", "split", "cluster")
TRAIN_WORDS = {"train", "training"}
HELD_OUT_WORDS = {"eval", "evaluation", "val", "valid", "validation", "test", "held_out", "held-out", "heldout"}

Index = dict[str, dict[str, str]]  # by id, then by column; "" where a protein has no value


def read_index(path: Path) -> Index:
    """The rows of index.csv, with the columns chain, split and cluster; empty where there is no such file.

    Raises DataError for a file that is no table, has no column id, or has an id twice.
    """
    if not path.is_file():
        return {}
    index: Index = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "id" not in (reader.fieldnames or []):
                raise DataError(f"{path}: has no column id; its first line must name the columns.")
            for row in reader:
                name = (row["id"] or "").strip()
                if name in index:
                    raise DataError(f"{path}, line {reader.line_num}: the id {name!r} is there twice; keep one row.")
                index[name] = {column: (row.get(column) or "").strip() for column in COLUMNS}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a comma-separated table ({error}).") from None
    return index


def split_ids(
    root: Path, ids: Sequence[str], index: Index, eval_fraction: float, only: str | None = None
) -> tuple[list[str], list[str], str]:
    """The ids to train on and those held out, each in the order of `ids`, and the rule that chose them.

    The split column decides if it names a split anywhere. Else whole clusters are held out, `eval_fraction` of them,
    by a hash of their names: neither a seed nor the other proteins move one from side to side. `only` is trained on and
    evaluated on, alone. One side may be empty. Raises DataError if `only` is not there, or if the split column names
    splits, but not for every protein.
    """
    if only is not None:
        if only not in ids:
            raise DataError(
                f"data.only={only} is not a protein of {root}{did_you_mean(only, ids)} The first of {len(ids)} is "
                f"{ids[0]}."
            )
        return [only], [only], "data.only, the same one"
    words = {name: index.get(name, {}).get("split", "").lower() for name in ids}
    if any(word in TRAIN_WORDS | HELD_OUT_WORDS for word in words.values()):
        for name, word in words.items():
            if word not in TRAIN_WORDS | HELD_OUT_WORDS:
                raise DataError(
                    f"{root / INDEX_FILE}: the split of {name!r} is {word!r}; write train or val for every protein."
                )
        held_out, rule = {name for name in ids if words[name] in HELD_OUT_WORDS}, "split"
    else:
        clusters = {name: cluster_of(name, index) for name in ids}
        rule = "id" if all(clusters[name] == name for name in ids) else "cluster"
        held_out = {name for name in ids if _fraction(clusters[name]) < eval_fraction}
    return [name for name in ids if name not in held_out], [name for name in ids if name in held_out], rule


def cluster_of(name: str, index: Index) -> str:
    """The cluster of a protein; one that index.csv puts into none is alone in a cluster of its name."""
    return index.get(name, {}).get("cluster") or name


def _fraction(word: str) -> float:
    """A number in [0, 1) that is the same in every process, and as good as random between words."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") / 2**32
