"""Small proteins as raw files: ten residues with Cα and C, and two rows."""

from pathlib import Path

from made_chains import SEQUENCE, THREE, pdb_atom

ALIGNMENT = f">q\n{SEQUENCE}\n>h\nMKLAVESTG-\n"
STRUCTURE = "".join(
    pdb_atom("CA", THREE[letter], i, (3.8 * i, 0, 0), b_factor=10 * i - 5)
    + pdb_atom("C", THREE[letter], i, (3.8 * i, 1, 0))
    for i, letter in enumerate(SEQUENCE, start=1)
)


def header(date: str, resolution: float) -> str:
    """The lines of a PDB file before its atoms; the date of release as 03-MAR-05."""
    return f"REVDAT   1   {date} 1ABC    0\nREMARK   2 RESOLUTION.{resolution:8.2f} ANGSTROMS.\n"


def add(root: Path, *names: str, alignment: str = ALIGNMENT, structure: str = STRUCTURE) -> None:
    """Proteins in the plain layout."""
    for name in names:
        (root / name).mkdir()
        (root / name / "msa.a3m").write_text(alignment)
        (root / name / "structure.pdb").write_text(structure)


def add_index(root: Path, columns: str, *rows: str) -> None:
    """The table of a data set."""
    (root / "index.csv").write_text("\n".join([columns, *rows]) + "\n")
