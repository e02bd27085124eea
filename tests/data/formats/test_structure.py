import gzip
import random
from pathlib import Path

import numpy as np
import pytest

from evotrain.data.formats.structure import read_chain
from evotrain.errors import DataError
from evotrain.residues import ATOM_INDEX

ODD = Path(__file__).parents[2].parent / "shared/realdata/odd/structures"
NAMES = "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL"
THREE = dict(zip("ARNDCQEGHILKMFPSTWYV", NAMES.split(), strict=True))
SEQUENCE = "MKLAVESTGG"


def _atom(name, residue, number, xyz, *, chain="A", altloc=" ", occupancy=1.0, hetero=False, element=""):
    x, y, z = xyz
    return (
        f"{'HETATM' if hetero else 'ATOM  '}{0:5d} {f' {name}' if len(name) < 4 else name:<4}{altloc}{residue:>3} "
        f"{chain}{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{20.0:6.2f}          {element:>2}\n"
    )


def _residue(letter, number, place, chain="A"):
    """Backbone and Cβ of one residue, Cα every 3.8 Å along x."""
    names = ["N", "CA", "C", "O"] + (["CB"] if letter != "G" else [])
    offsets = [(-1.4, 0.3, 0), (0, 0, 0), (1.4, 0.3, 0), (1.4, 1.5, 0), (0, -1, 1)]
    return "".join(
        _atom(name, THREE[letter], number, (3.8 * place + dx, dy, dz), chain=chain)
        for name, (dx, dy, dz) in zip(names, offsets, strict=False)
    )


def _chain(sequence, chain="A", first=1):
    return "".join(_residue(letter, first + i, i, chain) for i, letter in enumerate(sequence))


def _write(tmp_path, text, name="structure.pdb"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def _ca(positions):
    return positions[:, ATOM_INDEX["CA"], 0] / 3.8


@pytest.mark.parametrize("name", ["structure.pdb", "structure.pdb.gz"])
def test_atoms_of_a_file_without_header_elements_and_serials(tmp_path, name):
    path = _write(tmp_path, "FoldX generated pdb file\n\nRepairPDB\n" + _chain(SEQUENCE), name)
    positions, mask, _ = read_chain(path, None, SEQUENCE)
    assert positions.dtype == mask.dtype == np.float32
    assert positions.shape == (10, 37, 3)
    assert mask.shape == (10, 37)
    np.testing.assert_allclose(_ca(positions), np.arange(10), atol=1e-3)
    np.testing.assert_allclose(positions[2, ATOM_INDEX["CB"]], [7.6, -1, 1], atol=1e-3)
    np.testing.assert_array_equal(mask.sum(1), [5, 5, 5, 5, 5, 5, 5, 5, 4, 4])
    assert not positions[mask == 0].any()


@pytest.mark.parametrize("swapped", [False, True])
def test_the_nitrogens_of_arginine_are_named_by_the_standard(tmp_path, swapped):
    """NH1 is on Cδ's side, whatever the file says."""
    near, far = ("NH2", "NH1") if swapped else ("NH1", "NH2")
    text = _chain(SEQUENCE[:3]) + _residue("R", 4, 3)
    text += "".join(_atom(name, "ARG", 4, (x, 5, 0)) for name, x in (("CD", 0), (near, 2.8), (far, 3.6)))
    positions, mask, _ = read_chain(_write(tmp_path, text + _chain(SEQUENCE[4:], first=5)), "A", "MKLRVESTGG")
    assert positions[3, [ATOM_INDEX["NH1"], ATOM_INDEX["NH2"]], 0].tolist() == pytest.approx([2.8, 3.6])
    assert mask[3].sum() == 8


@pytest.mark.parametrize(("name", "expected"), [("pdb", 1.84), ("cif", 2.5), ("unknown", 0.0), ("odd", 0.0)])
def test_resolution(tmp_path, name, expected):
    header = "REMARK   2\nREMARK   2 RESOLUTION.    1.84 ANGSTROMS.\n"
    refined = _mmcif(("A", "A", SEQUENCE)).replace(
        "loop_", "_refine.pdbx_refine_id X\n_refine.ls_d_res_high 2.5\nloop_", 1
    )
    files = {
        "pdb": ("a.pdb", header + _chain(SEQUENCE)),
        "cif": ("a.cif", refined),
        "unknown": ("b.pdb", _chain(SEQUENCE)),
        "odd": ("b.cif", refined.replace(" 2.5\n", " -1\n")),
    }
    file, text = files[name]
    resolution = read_chain(_write(tmp_path, text, file), "A", SEQUENCE)[2]
    assert resolution == pytest.approx(expected)
    assert type(resolution) is float


def test_the_alternative_of_highest_occupancy_counts(tmp_path):
    text = _chain(SEQUENCE) + _atom("SD", "MET", 1, (1, 2, 3), altloc="A", occupancy=0.3)
    text += _atom("SD", "MET", 1, (4, 5, 6), altloc="B", occupancy=0.7)
    positions, mask, _ = read_chain(_write(tmp_path, _sorted(text)), "A", SEQUENCE)
    np.testing.assert_allclose(positions[0, ATOM_INDEX["SD"]], [4, 5, 6])
    assert mask[0].sum() == 6


def _sorted(text):
    """Lines in the order of their residues."""
    return "".join(sorted(text.splitlines(keepends=True), key=lambda line: int(line[22:26])))


@pytest.mark.parametrize(("share", "expected"), [(0.6, "SER"), (0.4, "PRO")])
def test_of_two_residue_types_at_one_position_the_more_occupied_counts(tmp_path, share, expected):
    ser = [_atom(name, "SER", 11, (38, i, 0), altloc="A", occupancy=share) for i, name in enumerate(("N", "CA", "OG"))]
    pro = [
        _atom(name, "PRO", 11, (38, i, 0), altloc="B", occupancy=1 - share) for i, name in enumerate(("N", "CA", "CD"))
    ]
    path = _write(tmp_path, _chain(SEQUENCE) + "".join(ser + pro))
    _, mask, _ = read_chain(path, "A", SEQUENCE + {"SER": "S", "PRO": "P"}[expected])
    assert mask[10, ATOM_INDEX["OG"]] == (expected == "SER")
    assert mask[10, ATOM_INDEX["CD"]] == (expected == "PRO")


def test_modified_residues_count_as_their_parents(tmp_path):
    text = _chain("KLAV", first=2)
    mse = "".join(_atom(name, "MSE", 1, (-3.8, i, 0), hetero=True) for i, name in enumerate(("N", "CA", "C", "SE")))
    mly = "".join(_atom(name, "MLY", 6, (15.2, i, 0), hetero=True) for i, name in enumerate(("N", "CA", "C", "CH2")))
    positions, mask, _ = read_chain(_write(tmp_path, mse + text + mly), "A", "MKLAVK")
    np.testing.assert_allclose(positions[0, ATOM_INDEX["SD"]], [-3.8, 3, 0], atol=1e-3)
    assert mask[5].sum() == 3
    assert not mask[5, ATOM_INDEX["CH2"]]  # a methyl of MLY, not tryptophan's CH2


def test_water_ligands_other_models_and_nucleic_chains_are_left_out(tmp_path):
    dna = "".join(_atom(n, "DA", i, (i, 50, 0), chain="B") for i in range(1, 5) for n in ("P", "C1'", "N9"))
    other = _atom("O", "HOH", 201, (0, 0, 9), hetero=True) + _atom("C1", "GOL", 202, (0, 0, 9), hetero=True)
    model = _chain(SEQUENCE) + "TER\n" + dna + "TER\n" + other
    shifted = _chain("G" + SEQUENCE)
    path = _write(tmp_path, f"MODEL        1\n{model}ENDMDL\nMODEL        2\n{shifted}ENDMDL\n")
    positions, mask, _ = read_chain(path, None, SEQUENCE)
    np.testing.assert_allclose(_ca(positions), np.arange(10), atol=1e-3)
    assert mask.sum() == 48


def test_unobserved_residues_are_found_where_the_chain_is_broken(tmp_path):
    # Letters alone cannot tell which G of the stretch is observed before the break and which after it.
    query = "MKLAGGGGGGVESTD"
    present = [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13]
    text = "".join(_residue(query[i], 100 + row, i) for row, i in enumerate(present))
    positions, mask, _ = read_chain(_write(tmp_path, text), "A", query)
    np.testing.assert_array_equal(np.flatnonzero(mask.any(1)), present)
    np.testing.assert_allclose(_ca(positions)[present], present, atol=1e-3)


def test_residues_beyond_the_query_are_dropped_and_missing_ends_masked(tmp_path):
    path = _write(tmp_path, _chain("HHHH" + SEQUENCE))
    positions, mask, _ = read_chain(path, "A", SEQUENCE + "WWW")
    np.testing.assert_allclose(_ca(positions)[:10], np.arange(4, 14), atol=1e-3)
    np.testing.assert_array_equal(mask.any(1), [True] * 10 + [False] * 3)


def _mmcif(*chains):
    """N, Cα and C of chains given as (label, author, sequence)."""
    columns = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id "
        "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy auth_seq_id auth_asym_id"
    )
    rows = "".join(
        f"ATOM {i} C {name} . {THREE[letter]} {label} {place + 1} "
        f"? {3.8 * place:.1f} {y} 0.0 1.0 {place + 1} {author}\n"
        for label, author, sequence in chains
        for place, letter in enumerate(sequence)
        for i, (name, y) in enumerate((("N", 1), ("CA", 0), ("C", -1)))
    )
    return "data_x\nloop_\n" + "".join(f"_atom_site.{column}\n" for column in columns.split()) + rows


def test_mmcif_by_author_name_then_by_label(tmp_path):
    path = _write(tmp_path, _mmcif(("A", "X", SEQUENCE), ("B", "A", "WYFWYFWYFW")), "structure.cif.gz")
    assert read_chain(path, "X", SEQUENCE)[1].sum() == 30
    assert read_chain(path, "A", "WYFWYFWYFW")[1].sum() == 30  # the author's A, not the label's
    assert read_chain(path, "B", "WYFWYFWYFW")[1].sum() == 30


def test_an_atom_without_coordinates_is_not_observed(tmp_path):
    text = _mmcif(("A", "A", SEQUENCE))
    assert text.count(" 11.4 0 ") == 1
    positions, mask, _ = read_chain(_write(tmp_path, text.replace(" 11.4 0 ", " ? 0 "), "structure.cif"), "A", SEQUENCE)
    assert not mask[3, ATOM_INDEX["CA"]]
    assert mask.sum() == 29
    assert np.isfinite(positions).all()


def _sentence(path, chain=None, query=SEQUENCE):
    with pytest.raises(DataError) as caught:
        read_chain(path, chain, query)
    return str(caught.value)


def test_a_chain_that_is_not_there_or_not_named(tmp_path):
    dna = "".join(_atom(n, "DA", i, (i, 50, 0), chain="D") for i in range(1, 5) for n in ("P", "C1'", "N9"))
    path = _write(tmp_path, _chain(SEQUENCE) + "TER\n" + _chain(SEQUENCE, "B") + "TER\n" + dna)
    assert _sentence(path) == f"{path}: has several protein chains (A, B); name one in the chain column of index.csv."
    assert _sentence(path, "C") == f"{path}: chain 'C' is not there; the protein chains are A, B."
    assert _sentence(path, "D") == f"{path}: chain 'D' holds no protein; the protein chains are A, B."
    only_dna = _write(tmp_path, dna, "dna.pdb")
    assert _sentence(only_dna) == f"{only_dna}: holds no protein, only chains D."


def test_a_structure_of_another_protein(tmp_path):
    path = _write(tmp_path, _chain(SEQUENCE))
    assert _sentence(path, "A", "MKLWVWSTGG") == (
        f"{path}: the chain's sequence does not match the query of the alignment "
        f"(80.0 % of 10 aligned residues and gaps agree, 90 % are needed); check the chain column of index.csv."
    )
    assert read_chain(path, "A", "MKLXVXSTGG")[1].any(1).all()  # unknown residues contradict nothing


def test_a_short_query_is_not_found_scattered_over_a_long_chain(tmp_path):
    generator = random.Random(0)
    long, short = ("".join(generator.choice("ARNDCQEGHILKMFPSTWYV") for _ in range(length)) for length in (800, 60))
    path = _write(tmp_path, _chain(long))
    assert "does not match the query" in _sentence(path, "A", short)
    assert read_chain(path, "A", long[300:360])[1].any(1).all()
    spliced = long[300:330] + long[345:375]  # a query without a loop of the structure
    np.testing.assert_allclose(_ca(read_chain(path, "A", spliced)[0])[30:], np.arange(345, 375), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("structure.pdb", b"", "holds no atoms"),
        ("structure.pdb", b"no structure at all\n", "holds no atoms"),
        ("structure.cif", b"data_x\n_cell.length_a 1\n", "holds no atoms"),
        ("structure.cif", b"\x00\x01garbage", "cannot be read as mmCIF or PDB, plain or gzip ("),
        (
            "structure.cif.gz",
            gzip.compress(b"data_x\n" * 9999)[:-20],
            "cannot be read as mmCIF or PDB, plain or gzip (",
        ),
        ("structure.bcif", b"\x83", "cannot be read as mmCIF or PDB, plain or gzip (Unknown format of structure.bcif)"),
    ],
)
def test_a_file_that_is_no_structure(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    assert _sentence(tmp_path / name).startswith(f"{tmp_path / name}: {sentence}")


def test_a_damaged_name(tmp_path):
    path = tmp_path / "structure.pdb"
    path.write_bytes(_chain(SEQUENCE).encode().replace(b"MET", b"M\x80T"))
    assert _sentence(path).startswith(f"{path}: holds a name that is no text (")


def test_no_such_file(tmp_path):
    assert _sentence(tmp_path / "structure.cif") == f"{tmp_path / 'structure.cif'}: no such file."


@pytest.mark.skipif(not ODD.is_dir(), reason=f"needs the specimens of {ODD}")
@pytest.mark.parametrize(
    ("name", "chain", "query"),
    [
        ("1ejg.pdb.gz", "A", "TTCCPSIVARSNFNVCRLPGTPEALCATYTGCIIIPGATCPGDYAN"),
        ("1lcd.cif.gz", "A", "MKPVTLYDVAEYAGVSYQTVSRVVNQASHVSAKTREKVEAAMAELNYIPNR"),
        ("1l2y_A.cif.gz", None, "NLYIQWLKDGGPSSGRPPPS"),
        ("1a8o.cif.gz", "A", "MDIRQGPKEPFRDYVDRFYKTLRAEQASQEVKNWMTETLLVQNANPDCKTILKALGPGATLEEMMTACQG"),
    ],
)
def test_specimens_that_break_naive_readers(name, chain, query):
    _, mask, _ = read_chain(ODD / name, chain, query)
    assert mask[:, ATOM_INDEX["CA"]].all()
    sulphur = [i for i, letter in enumerate(query) if letter == "M"]
    assert mask[sulphur, ATOM_INDEX["SD"]].all()
