"""Small sets of random proteins on disk, in the plain layout of raw files."""

from pathlib import Path

import made_proteins
import numpy as np
from made_chains import THREE, pdb_atom

LETTERS = "ARNDCQEGHILKMF"


def write_raw_set(root: Path, names, *, templates=(), broken=(), index: str | None = None) -> Path:
    """Writes a protein for each name; `templates` names those that have any, `broken` those that cannot be read."""
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        length = int(rng.integers(6, 14))
        alignment = _alignment(rng, length, broken=name in broken)
        made_proteins.add(root, name, alignment=alignment, structure=_structure(rng, length))
        if name in templates:
            np.savez(root / name / "templates.npz", **_templates(rng, length))
    if index is not None:
        (root / "index.csv").write_text(index)
    return root


def _alignment(rng: np.random.Generator, length: int, *, broken: bool) -> str:
    query = LETTERS[:length]
    lines = [">query", query]
    for row in range(int(rng.integers(2, 9))):
        aligned = "".join(letter if rng.random() < 0.7 else "-" for letter in query)
        lines += [f">row{row}", "acd" * int(rng.integers(3)) + aligned]
    return "\n".join(lines) + ("!\n" if broken else "\n")


def _structure(rng: np.random.Generator, length: int) -> str:
    """Backbone atoms of a chain whose third residue was not observed."""
    return "".join(
        pdb_atom(atom, THREE[letter], number, rng.uniform(-50, 50, 3), b_factor=rng.uniform(5, 99))
        for number, letter in enumerate(LETTERS[:length], 1)
        for atom in ("N", "CA", "C")
        if number != 3
    )


def _templates(rng: np.random.Generator, length: int, count: int = 2) -> dict[str, np.ndarray]:
    mask = (rng.random((count, length, 37)) < 0.3).astype(np.float32)
    return {
        "template_aatype": rng.integers(0, 22, (count, length)).astype(np.int32),
        "template_all_atom_positions": rng.normal(size=(count, length, 37, 3)).astype(np.float32),
        "template_all_atom_masks": mask,
    }
