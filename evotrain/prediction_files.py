"""What `command=predict` writes for a protein:

structure.cif, structure.pdb    the atoms, with pLDDT in the column of B-factors
confidence.json                 pLDDT by residue, aligned errors by pair, and how recycling went
contacts.png, plddt.png         figures; pae.png too if the network predicts aligned errors
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from evotrain import structure_figures
from evotrain.data.formats.alignment import letters
from evotrain.data.protein import pseudo_beta
from evotrain.folding import Fold
from evotrain.metrics import pair_distances
from evotrain.run_dir import disk_errors, write_atomic
from evotrain.structure_file import mmcif_bytes, pdb_bytes, predicted_structure


def write_fold(directory: Path, fold: Fold) -> None:
    """Writes the files of one protein, each whole or not at all.

    Raises:
      RunError: the disk is full, read-only or forbidden.
    """
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    structure = predicted_structure(fold.name, fold.aatype, fold.positions, fold.mask, fold.plddt)
    write_atomic(directory / "structure.cif", mmcif_bytes(structure))
    write_atomic(directory / "structure.pdb", pdb_bytes(structure))
    write_atomic(directory / "confidence.json", (json.dumps(confidence(fold), allow_nan=False) + "\n").encode())

    beta, there = pseudo_beta(fold.aatype, fold.positions, fold.mask)
    structure_figures.contact_map(
        directory / "contacts.png",
        name=fold.name,
        probability=fold.contact_probability,
        distance=np.where(there[:, None] * there[None] > 0, pair_distances(beta), np.inf),
    )
    structure_figures.plddt_along_chain(directory / "plddt.png", name=fold.name, plddt=fold.plddt)
    if fold.aligned_error is not None:
        structure_figures.aligned_error_map(
            directory / "pae.png", name=fold.name, error=fold.aligned_error, ptm=fold.ptm
        )


def confidence(fold: Fold) -> dict[str, Any]:
    """The content of confidence.json: scores of the whole first, then by residue, then by pair.

    `pae` is in Å and its row i is for a superposition on residue i; it and `ptm` are null if they were not predicted.
    """
    return {
        "name": fold.name,
        "sequence": letters(fold.aatype),
        "mean_plddt": _rounded(fold.plddt.mean()),
        "ptm": None if fold.ptm is None else round(fold.ptm, 4),
        "passes": len(fold.changes) + 1,
        "changes": _rounded(fold.changes),
        "converged": bool(fold.changes) and fold.changes[-1] < fold.tolerance,
        "plddt": _rounded(fold.plddt),
        "pae": None if fold.aligned_error is None else _rounded(fold.aligned_error),
    }


def _rounded(values: Any) -> Any:
    """Numbers of two decimals, as nested lists."""
    return np.round(np.asarray(values, np.float64), 2).tolist()
