"""Small sets of proteins on disk, in the plain layout of raw files."""

from pathlib import Path

import numpy as np

RESIDUES = ("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE", "LEU", "LYS", "MET", "PHE")
LETTERS = "ARNDCQEGHILKMF"


def write_raw_set(root: Path, names, *, templates=(), broken=(), index: str | None = None) -> Path:
    """Writes a protein for each name; `templates` names those that have any, `broken` those that cannot be read."""
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        length = int(rng.integers(6, 14))
        folder = root / name
        folder.mkdir()
        (folder / "msa.a3m").write_text(_alignment(rng, length, broken=name in broken))
        (folder / "structure.pdb").write_text(_structure(rng, length))
        if name in templates:
            np.savez(folder / "templates.npz", **_templates(rng, length))
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
    atoms = []
    for residue in range(length):
        for atom in ("N", "CA", "C"):
            x, y, z = rng.uniform(-50, 50, 3)
            atoms.append(
                f"ATOM  {len(atoms) + 1:5d}  {atom:<3} {RESIDUES[residue]} A{residue + 1:4d}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00{rng.uniform(5, 99):6.2f}           {atom[0]}\n"
            )
    return "".join(line for line in atoms if int(line[22:26]) != 3)


def _templates(rng: np.random.Generator, length: int, count: int = 2) -> dict[str, np.ndarray]:
    mask = (rng.random((count, length, 37)) < 0.3).astype(np.float32)
    return {
        "template_aatype": rng.integers(0, 22, (count, length)).astype(np.int32),
        "template_all_atom_positions": rng.normal(size=(count, length, 37, 3)).astype(np.float32),
        "template_all_atom_masks": mask,
    }


def assert_same_protein(one, other):
    """The same to the bit, also in dtypes and shapes."""
    assert type(one) is type(other)
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        found = getattr(other, name)
        if isinstance(value, np.ndarray):
            assert (found.dtype, found.shape) == (value.dtype, value.shape), name
            assert found.tobytes() == value.tobytes(), name
            assert found.flags.c_contiguous, name
            assert not found.flags.writeable, name
        elif hasattr(value, "__dataclass_fields__"):
            assert_same_protein(value, found)
        else:
            assert (type(found), found) == (type(value), value), name
