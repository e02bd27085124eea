"""Small proteins as raw files: ten residues with Cα and C, and two rows."""

from pathlib import Path

SEQUENCE = "MKLAVESTGG"
RESIDUES = ("MET", "LYS", "LEU", "ALA", "VAL", "GLU", "SER", "THR", "GLY", "GLY")
ALIGNMENT = f">q\n{SEQUENCE}\n>h\nMKLAVESTG-\n"
STRUCTURE = "".join(
    f"ATOM  {i:5d}  CA  {residue} A {i:3d}    {3.8 * i:8.3f}{0:8.3f}{0:8.3f}  1.00 {10 * i - 5:5.2f}\n"
    f"ATOM  {i:5d}  C   {residue} A {i:3d}    {3.8 * i:8.3f}{1:8.3f}{0:8.3f}  1.00 20.00\n"
    for i, residue in enumerate(RESIDUES, start=1)
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
