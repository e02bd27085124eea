"""What the selection of training proteins looks at."""

from dataclasses import dataclass

import numpy as np

from evotrain.data.protein import Protein


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one protein."""

    length: int  # residues of the query
    rows: int  # of the alignment
    resolution: float  # of the experiment in Å, 0 where unknown
    release_date: str  # of the structure, YYYY-MM-DD, "" where unknown
    repeat: float  # share of the commonest residue type in the query


def facts_of(protein: Protein) -> Facts:
    """The facts of a protein."""
    rows, length = protein.msa.shape
    return Facts(
        length=length,
        rows=rows,
        resolution=protein.resolution,
        release_date=protein.release_date,
        repeat=int(np.bincount(protein.msa[0]).max()) / length,
    )
