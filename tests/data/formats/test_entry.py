import gzip

import pytest
from made_chains import SEQUENCE, mmcif, pdb_chain, write

from evotrain.data.formats.entry import read_entry
from evotrain.errors import DataError

PDB, MMCIF = pdb_chain(SEQUENCE), mmcif(("A", "A", SEQUENCE))
ATOMS = {"pdb": 48, "cif": 30}


@pytest.mark.parametrize("name", ["a.pdb", "a.cif.gz", "a", "a.cif", "a.ent.gz"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("form", "text"), [("pdb", "FoldX generated\n\n" + PDB), ("cif", "\n# by hand\n\n" + MMCIF)])
def test_the_content_tells_the_format(tmp_path, name, ends, form, text):
    entry = read_entry(write(tmp_path, text.replace("\n", ends), name))
    assert entry.is_mmcif == (form == "cif")
    assert entry.structure[0].count_atom_sites() == ATOMS[form]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("REMARK   2\nREMARK   2 RESOLUTION.    1.84 ANGSTROMS.\n" + PDB, 1.84),
        (PDB, 0.0),
        (MMCIF, 0.0),
        (MMCIF + "#\n_refine.ls_d_res_high 2.5\n_reflns.d_resolution_high 2.2\n", 2.5),
        (MMCIF + "#\n_refine.ls_d_res_high .\n_em_3d_reconstruction.resolution 3.1\n", 3.1),
        (MMCIF + "#\n_reflns.d_resolution_high 1.5(2)\n", 1.5),
        (MMCIF + "#\n_refine.ls_d_res_high -1\n", 0.0),
    ],
)
def test_resolution(tmp_path, text, expected):
    resolution = read_entry(write(tmp_path, text)).resolution
    assert resolution == pytest.approx(expected)
    assert type(resolution) is float


DEPOSITED_PDB = "HEADER    PLANT PROTEIN                           02-MAR-00   1EJG\n"
DEPOSITED = "#\n_pdbx_database_status.recvd_initial_deposition_date 1997-12-15\n"


def _dates(tag, *dates):
    return f"#\nloop_\n{tag}\n" + "\n".join(dates)


REVISED = MMCIF + DEPOSITED + _dates("_pdbx_audit_revision_history.revision_date", "2011-07-13", "1998-04-08", "?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PDB, ""),
        (DEPOSITED_PDB + PDB, ""),
        (DEPOSITED_PDB + "REVDAT   2   01-APR-03 1EJG    1\nREVDAT   1   05-APR-00 1EJG    0\n" + PDB, "2000-04-05"),
        ("REVDAT   1   16-APR-87 1UBQ    0\n" + PDB, "1987-04-16"),
        ("REVDAT   1   16-XXX-87 1UBQ    0\n" + PDB, ""),
        (MMCIF, ""),
        (MMCIF + DEPOSITED, ""),
        (REVISED, "1998-04-08"),
        (MMCIF + _dates("_database_PDB_rev.date", "1998-10-14"), "1998-10-14"),
    ],
)
def test_the_release_is_the_earliest_revision(tmp_path, text, expected):
    assert read_entry(write(tmp_path, text)).release_date == expected


NEITHER = ": is neither mmCIF, which starts with data_, nor PDB, which has ATOM records; give one of the two."
NO_ATOMS = ": holds no atoms; mmCIF needs its _atom_site table, PDB its ATOM records."


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", ": the file is empty; give the structure as mmCIF or PDB."),
        (b"# nothing\n\n", ": the file is empty; give the structure as mmCIF or PDB."),
        (b"no structure at all\n", NEITHER),
        (b"<!DOCTYPE html><html>404</html>", NEITHER),
        (b">query\nMKLAVESTGG\n", NEITHER),
        (b"\x00\x01garbage\xff", NEITHER),
        (b"HEADER    PLANT PROTEIN\nEND\n", NEITHER),
        (b"data_x\n_cell.length_a 1\n", NO_ATOMS),
        (
            b"\x83\xa7encoder\xa3x\xaadataBlocks\x91\xab_atom_site",
            ": is BinaryCIF, which is not read; give the same entry as mmCIF (.cif or .cif.gz).",
        ),
        (
            gzip.compress(b"data_x\n" * 9999)[:-20],
            ": is damaged gzip (Compressed file ended before the end-of-stream marker was reached); "
            "copy the file again.",
        ),
        (
            b"data_x\n_cell.length_a\n_cell.length_b 2\n",
            ", line 2: cannot be read as mmCIF (_cell.length_a has no value); correct it or copy the file again.",
        ),
        (
            MMCIF.encode()[:-40],
            ", line 2: cannot be read as mmCIF (Wrong number of values in loop _atom_site.*); "
            "correct it or copy the file again.",
        ),
        (
            MMCIF.encode() + MMCIF.encode(),
            ": cannot be read as mmCIF (duplicate block name: x); correct it or copy the file again.",
        ),
        (
            PDB.encode()[:-40],
            ", line 48: cannot be read as PDB (The line is too short to be correct: ATOM 0 O GLY A 10); "
            "correct it or copy the file again.",
        ),
        (
            PDB.replace("  -1.400", "********", 1).encode(),
            ", line 1: the atom's coordinates are not three numbers; correct or remove it.",
        ),
        (
            PDB.replace("   3.800   0.000   0.000", " " * 24, 1).encode(),
            ", line 7: the atom's coordinates are not three numbers; correct or remove it.",
        ),
    ],
)
def test_a_file_that_is_no_structure(tmp_path, content, sentence):
    path = tmp_path / "structure.cif"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_entry(path)
    assert str(caught.value) == f"{path}{sentence}"


def test_no_such_file(tmp_path):
    with pytest.raises(DataError) as caught:
        read_entry(tmp_path / "structure.cif")
    assert str(caught.value) == f"{tmp_path / 'structure.cif'}: no such file."
