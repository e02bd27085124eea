"""Alignments and structures of any size as files, the same at every run."""

from pathlib import Path

import gemmi
import numpy as np

from evotrain.data.protein import RESIDUES
from evotrain.residues import ATOM37_EXISTS, NUM_ATOMS
from evotrain.structure_file import mmcif_bytes, predicted_structure

LETTERS = np.frombuffer(RESIDUES.encode(), np.uint8)
GAP = ord("-")


def write_proteins(root: Path, count: int, *, residues: int, rows: int) -> None:
    """Writes `count` proteins of so many residues, all atoms observed, with alignments of so many rows."""
    for number in range(count):
        rng = np.random.default_rng((number, residues, rows))
        aatype = rng.integers(20, size=residues)
        folder = root / f"made{number}"
        folder.mkdir(parents=True)
        (folder / "msa.a3m").write_bytes(_a3m(rng, LETTERS[aatype], rows))
        (folder / "structure.cif").write_bytes(_mmcif(rng, folder.name, aatype))


def _a3m(rng: np.random.Generator, query: np.ndarray, rows: int) -> bytes:
    """Rows that share 20 to 90 % of the query, cover two thirds of it in the mean, and have insertions in 2 % of the
    columns: about as real ones do."""
    lines = [b">query", query.tobytes()]
    columns = np.arange(len(query))
    for row in range(1, rows):
        letters = np.where(rng.random(len(query)) < rng.uniform(0.2, 0.9), query, rng.choice(LETTERS, len(query)))
        first, last = np.sort(rng.integers(len(query), size=2))
        letters[(columns < first // 2) | (columns > (last + len(query)) // 2)] = GAP
        places = np.flatnonzero(rng.random(len(query)) < 0.02)
        inserted = rng.choice(LETTERS + 32, (len(places), 3))  # in small letters
        text = np.insert(letters, np.repeat(places, 3), inserted.ravel())
        lines += [b">UniRef100_row%d/1-%d" % (row, len(query)), text.tobytes()]
    return b"\n".join(lines) + b"\n"


def _mmcif(rng: np.random.Generator, name: str, aatype: np.ndarray) -> bytes:
    """A random walk of residues 3.8 Å apart with their atoms around them."""
    steps = rng.normal(size=(len(aatype), 3))
    centres = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)
    positions = centres[:, None] + rng.normal(size=(len(aatype), NUM_ATOMS, 3))
    atoms = ATOM37_EXISTS[aatype]
    text = mmcif_bytes(predicted_structure(name, aatype, positions, atoms, np.full(len(aatype), 90.0)))
    document = gemmi.cif.read_string(text)
    block = document.sole_block()
    # What DeepMind's parser looks for in an entry of the PDB.
    for row in block.find("_chem_comp.", ["type"]):
        row[0] = "'L-peptide linking'"
    block.set_pairs("_pdbx_audit_revision_history.", {"ordinal": "1", "revision_date": "2020-01-01"})
    block.set_pairs("_exptl.", {"entry_id": name, "method": "'X-RAY DIFFRACTION'"})
    return document.as_string().encode()
