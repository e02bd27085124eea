"""Made-up chains as PDB and mmCIF text: straight along x, their Cα 3.8 Å apart."""

import gzip

from evotrain.data.protein import RESIDUES
from evotrain.residues import RESIDUE_NAMES

THREE = dict(zip(f"{RESIDUES}X", RESIDUE_NAMES, strict=True))
SEQUENCE = "MKLAVESTGG"


def write(tmp_path, text, name="structure.pdb"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def pdb_atom(
    name, residue, number, xyz, *, chain="A", altloc=" ", insertion=" ", occupancy=1.0, b_factor=20.0, hetero=False
):
    x, y, z = xyz
    return (
        f"{'HETATM' if hetero else 'ATOM  '}{0:5d} {f' {name}' if len(name) < 4 else name:<4}{altloc}{residue:>3} "
        f"{chain}{number:4d}{insertion}   {x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{b_factor:6.2f}\n"
    )


def pdb_residue(letter, number, place, chain="A", insertion=" "):
    """Backbone and Cβ of one residue."""
    names = ["N", "CA", "C", "O"] + (["CB"] if letter != "G" else [])
    offsets = [(-1.4, 0.3, 0), (0, 0, 0), (1.4, 0.3, 0), (1.4, 1.5, 0), (0, -1, 1)]
    return "".join(
        pdb_atom(name, THREE[letter], number, (3.8 * place + dx, dy, dz), chain=chain, insertion=insertion)
        for name, (dx, dy, dz) in zip(names, offsets, strict=False)
    )


def pdb_chain(sequence, chain="A", first=1):
    return "".join(pdb_residue(letter, first + i, i, chain) for i, letter in enumerate(sequence))


def pdb_dna(chain="B"):
    return "".join(pdb_atom(n, "DA", i, (i, 50, 0), chain=chain) for i in range(1, 5) for n in ("P", "C1'", "N9"))


def seqres(names, chain="A"):
    """SEQRES records of residue names."""
    lines = [names[i : i + 13] for i in range(0, len(names), 13)]
    return "".join(f"SEQRES {i:3d} {chain} {len(names):4d}  {' '.join(line)}\n" for i, line in enumerate(lines, 1))


def mmcif(*chains, full=""):
    """N, Cα and C of chains given as (label, author, sequence), '-' for a residue that was not observed.

    `full` is the sequence of all of them in _entity_poly_seq; without it the file has no such table.
    """
    columns = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
        "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy auth_seq_id auth_asym_id"
    )
    rows = "".join(
        f"ATOM {i} C {name} . {THREE[letter]} {label} 1 {place + 1} "
        f"? {3.8 * place:.1f} {y} 0.0 1.0 {place + 1} {author}\n"
        for label, author, sequence in chains
        for place, letter in enumerate(sequence)
        if letter != "-"
        for i, (name, y) in enumerate((("N", 1), ("CA", 0), ("C", -1)))
    )
    text = "data_x\n"
    if full:
        text += "_entity.id 1\n_entity.type polymer\n_entity_poly.entity_id 1\n_entity_poly.type polypeptide(L)\n"
        text += "loop_\n_entity_poly_seq.entity_id\n_entity_poly_seq.num\n_entity_poly_seq.mon_id\n"
        text += "".join(f"1 {number} {THREE[letter]}\n" for number, letter in enumerate(full, 1))
    return text + "loop_\n" + "".join(f"_atom_site.{column}\n" for column in columns.split()) + rows
