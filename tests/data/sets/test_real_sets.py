"""Real proteins in the layouts in which they are published."""

import csv
import gzip

import gemmi
import numpy as np
import pytest

from evotrain.data.formats.alignment import letters
from evotrain.data.protein import CA_ATOM
from evotrain.data.sets.raw import RawSet
from evotrain.data_config import ProteinSetConfig


def _open(root, **keys):
    return RawSet(ProteinSetConfig(root=str(root), **keys))


@pytest.mark.parametrize("folder", ["public", "predicted"])
def test_every_real_protein_is_read(realdata, folder):
    root = realdata.parent / folder
    data = _open(root)
    with (root / "index.csv").open() as file:
        index = {row["id"]: row for row in csv.DictReader(file)}
    assert data.ids == sorted(index)
    for name in data.ids:
        protein = data.read(name)
        rows, length = protein.msa.shape
        assert length == int(index[name]["n_res"])
        assert len(np.unique(protein.msa, axis=0)) <= rows <= int(index[name]["n_seq"]), name
        observed = protein.atom_mask[:, CA_ATOM].mean()
        assert observed == pytest.approx(float(index[name].get("coverage", 1)), abs=1e-3), name
        assert np.isfinite(protein.atom_positions).all()
        if protein.resolution and index[name].get("resolution"):
            assert protein.resolution == float(index[name]["resolution"]), name


@pytest.fixture
def openfold(realdata, tmp_path):
    """The specimens of one OpenFold directory as OpenProteinSet has them, folders a3m and hhr, and their query."""
    specimens = realdata.parent / "odd" / "alignments"
    folder = tmp_path / "sets" / "9xyz_A"
    for name, place in {
        "bfd_uniclust_hits.a3m": "a3m",
        "uniref90_hits.sto": "a3m",
        "mgnify_hits.sto": "a3m",
        "pdb70_hits.hhr": "hhr",
    }.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f"{name}.gz").write_bytes((specimens / f"of73_{name}.gz").read_bytes())
    (tmp_path / "cif").mkdir()
    query = gzip.decompress((specimens / "of73_bfd_uniclust_hits.a3m.gz").read_bytes()).split(b"\n")[1].decode()
    return tmp_path, query


def _ca_trace(query, chain):
    """The query's Cα in a straight line, as PDB records."""
    return "".join(
        f"ATOM  {i:5d}  CA  {gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA)} {chain}{i:4d}    "
        f"{3.8 * i:8.3f}{0:8.3f}{0:8.3f}  1.00 20.00\n"
        for i, letter in enumerate(query, start=1)
    )


def test_openproteinset(openfold):
    root, query = openfold
    (root / "cif" / "9xyz.pdb").write_text(_ca_trace(query, "A") + "TER\n" + _ca_trace(query[:40], "B"))
    (root / "templates").mkdir()
    data = _open(root / "sets", structures=str(root / "cif"), template_structures=str(root / "templates"))
    protein = data.read("9xyz_A")
    assert letters(protein.msa[0]) == query
    assert len({row.tobytes() for row in protein.msa}) <= len(protein.msa)
    assert protein.atom_mask[:, CA_ATOM].all()
    assert protein.templates is None  # none of their structures is there
    parts = ["a3m/uniref90_hits.sto.gz", "a3m/bfd_uniclust_hits.a3m.gz", "a3m/mgnify_hits.sto.gz"]
    folder = root / "sets" / "9xyz_A"
    assert data.files("9xyz_A") == [
        *(folder / part for part in parts), root / "cif" / "9xyz.pdb", folder / "hhr" / "pdb70_hits.hhr.gz",
    ]  # fmt: skip
    without = _open(root / "sets", structures=str(root / "cif"))
    assert len(without.files("9xyz_A")) == 4


def test_the_merged_rows_are_those_that_alphafold_merges(openfold, realdata):
    """Against the reference's parsers, and its rule of the rows that count."""
    parsers = pytest.importorskip("alphafold.data.parsers")
    root, query = openfold
    (root / "cif" / "9xyz.pdb").write_text(_ca_trace(query, "A"))
    protein = _open(root / "sets", structures=str(root / "cif")).read("9xyz_A")
    specimens = realdata.parent / "odd" / "alignments"
    seen, deletions = {}, []
    for name, parse in {
        "uniref90_hits.sto": parsers.parse_stockholm,
        "bfd_uniclust_hits.a3m": parsers.parse_a3m,
        "mgnify_hits.sto": parsers.parse_stockholm,
    }.items():
        msa = parse(gzip.decompress((specimens / f"of73_{name}.gz").read_bytes()).decode())
        msa = msa.truncate({"uniref90_hits.sto": 10_000, "mgnify_hits.sto": 501}.get(name, len(msa.sequences)))
        for row, counts in zip(msa.sequences, msa.deletion_matrix, strict=True):
            if row not in seen:
                seen[row] = len(seen)
                deletions.append(counts)
    meaning = str.maketrans("BZUJO", "DECXX")
    assert [letters(row) for row in protein.msa] == [row.translate(meaning) for row in seen]
    np.testing.assert_array_equal(protein.deletions, deletions)


def test_a_short_protein_with_almost_no_alignment(realdata, tmp_path):
    specimen = realdata.parent / "odd" / "alignments" / "1l2y_A_mgnify_hits.a3m.gz"
    (tmp_path / "sets" / "1l2y_A").mkdir(parents=True)
    (tmp_path / "sets" / "1l2y_A" / "mgnify_hits.a3m.gz").write_bytes(specimen.read_bytes())
    structures = realdata.parent / "odd" / "structures"
    protein = _open(tmp_path / "sets", structures=str(structures)).read("1l2y_A")
    assert protein.msa.shape[1] == 20
    assert protein.atom_mask[:, CA_ATOM].all()
    assert protein.resolution == 0
