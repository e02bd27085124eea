"""Made-up lists of template hits, written as HHsearch and hmmsearch write them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@dataclass(frozen=True)
class Row:
    """A hit by its two aligned rows, '-' for gaps; starts are from 1."""

    name: str
    query: str
    query_start: int
    hit: str
    hit_start: int
    sum_probs: float = 10.0


def random_sequence(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(list(RESIDUES), length))


def random_row(rng: np.random.Generator, name: str, query: str, sequence: str, sum_probs: float = 10.0) -> Row:
    """A random stretch of the sequence aligned to a random stretch of the query, with gaps on both sides."""
    columns = int(rng.integers(min(len(query), len(sequence)) // 2 + 1, min(len(query), len(sequence)) + 1))
    ops = rng.choice(["both", "query", "hit"], columns, p=[0.8, 0.1, 0.1])
    ops[[0, -1]] = "both"
    stretches = []
    for whole, other in ((query, "hit"), (sequence, "query")):
        size = int((ops != other).sum())
        start = int(rng.integers(len(whole) - size + 1))
        letters = iter(whole[start : start + size])
        stretches.append((start, "".join("-" if op == other else next(letters) for op in ops)))
    (query_start, query_row), (hit_start, hit_row) = stretches
    return Row(name, query_row, query_start + 1, hit_row, hit_start + 1, sum_probs)


def hhr_text(query_length: int, rows: Sequence[Row], width: int = 80) -> str:
    lines = [
        f"Query         a query\nMatch_columns {query_length}\n",
        " No Hit                             Prob E-value",
    ]
    lines += [f"{rank:3d} {row.name[:30]:30s}  50.0" for rank, row in enumerate(rows, 1)] + [""]
    for rank, row in enumerate(rows, 1):
        aligned = sum("-" not in pair for pair in zip(row.query, row.hit, strict=True))
        lines += [
            f"No {rank}",
            f">{row.name} A PROTEIN; 1.5A {{Homo sapiens}}",
            f"Probab=7.51  E-value=3.8e+02  Score=16.19  Aligned_cols={aligned}  Identities=23%  Similarity=0.398  "
            f"Sum_probs={row.sum_probs:.1f}  Template_Neff=4.500",
            "",
        ]
        sides = [["Q query", row.query, row.query_start, 500], [f"T {row.name[:14]}", row.hit, row.hit_start, 600]]
        for start in range(0, len(row.query), width):
            for side in sides:
                head, letters, number, length = side
                block = letters[start : start + width]
                last = number + len(block.replace("-", "")) - 1
                line = f"{number:4d} {block}  {last:3d} ({length})"
                consensus = f"{head[0]} Consensus      {number:4d} {block.lower()}  {last:3d} ({length})"
                lines += [f"{head:16s} {line}", consensus]
                side[2] = last + 1
            lines += ["T ss_dssp             HHHHHHCCCC", "Confidence            3456666666", "", ""]
    return "\n".join(lines)


def stockholm_text(rows: Sequence[tuple[str, str, str]], width: int = 200) -> str:
    """Rows of name, description and letters: capitals and '-' in the profile's columns, else lower case and '.'."""
    lines = ["# STOCKHOLM 1.0", "#=GF AU hmmsearch (HMMER 3.3.2)", ""]
    lines += [f"#=GS {name:20s} DE {description}" for name, description, _ in rows if description] + [""]
    columns = len(rows[0][2])
    for start in range(0, columns, width):
        for name, _, letters in rows:
            block = letters[start : start + width]
            lines += [f"{name:30s} {block}", f"#=GR {name:20s} PP {'9' * len(block)}"]
        lines += [f"#=GC RF                        {'x' * len(rows[0][2][start : start + width])}", ""]
    return "\n".join([*lines[:-1], "//", ""])


def random_stockholm_row(rng: np.random.Generator, columns: np.ndarray) -> str:
    """`columns`, bool, says which are the profile's. A hit has gaps, also at its ends, and residues in between."""
    letters = rng.choice(list(RESIDUES), len(columns))
    letters[rng.random(len(columns)) < 0.2] = "-"
    first, last = np.sort(rng.choice(np.flatnonzero(columns), 2, replace=False))
    letters[:first], letters[last + 1 :] = "-", "-"
    letters[first] = "A"  # hmmsearch's stretches start in a column of the profile
    padded = np.where(letters == "-", ".", np.char.lower(letters))
    return "".join(np.where(columns, letters, padded))
