"""Every real alignment is read as AlphaFold's parsers and Biopython read it, or answered with a sentence."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest

from evotrain.data.formats.alignment import merge, read_alignment
from evotrain.errors import DataError

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "realdata"
ODD = REAL / "odd" / "alignments"

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the files of {REAL}")


def _text(path):
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().replace("\0", "")


def _assert_equal(alignment, names, sequences, deletions):
    """Deletion rows may be longer than the query: the reference counts what follows the last column."""
    assert alignment.names == names
    np.testing.assert_array_equal(alignment.letters, [list(sequence.encode()) for sequence in sequences])
    length = alignment.letters.shape[1]
    np.testing.assert_array_equal(alignment.deletions, [row[:length] for row in deletions])


def _assert_as_alphafold(path):
    parsers = pytest.importorskip("alphafold.data.parsers")
    parse = parsers.parse_stockholm if ".sto" in path.name else parsers.parse_a3m
    msa = parse(_text(path))
    names = [description.split()[0] for description in msa.descriptions]
    _assert_equal(read_alignment(path), names, msa.sequences, msa.deletion_matrix)


def _assert_as_columns(path, names, rows):
    """Of rows as written, the columns in which the first has a residue."""
    written = np.array([list(row.upper().replace(".", "-")) for row in rows])
    columns = np.flatnonzero(written[0] != "-")
    inserted = (written != "-") & (written[0] == "-")
    edges = np.concatenate([[-1], columns])
    deletions = np.stack([inserted[:, a + 1 : b].sum(1) for a, b in zip(edges, columns, strict=False)], 1)
    _assert_equal(read_alignment(path), names, ["".join(row[columns]) for row in written], deletions)


@pytest.mark.parametrize("path", sorted([*ODD.glob("*.a3m*"), *ODD.glob("of73_*.sto*")]), ids=lambda path: path.name)
def test_odd_files_are_read_as_alphafold_reads_them(path):
    if path.name == "colabfold_empty.a3m":
        with pytest.raises(DataError, match="colabfold_empty.a3m: the file is empty; it needs at least the query"):
            read_alignment(path)
    else:
        _assert_as_alphafold(path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("globins4_interleaved.sto", (4, 146)),
        ("LuxC_hmmalign.sto.gz", (12, 394)),
        ("pfam8.seed.sto.gz", (95, 127)),
        ("funny.sth", (6, 37)),
    ],
)
def test_odd_stockholm_is_read_as_biopython_reads_it(name, shape):
    """AlphaFold's parser knows neither dots nor lower case."""
    align_io = pytest.importorskip("Bio.AlignIO")
    rows = align_io.read(io.StringIO(_text(ODD / name)), "stockholm")
    _assert_as_columns(ODD / name, [row.id for row in rows], [str(row.seq) for row in rows])
    assert read_alignment(ODD / name).letters.shape == shape


def test_a_sequence_that_pfam_lists_twice():
    """Biopython refuses it, AlphaFold's parser makes one row of the two."""
    path = ODD / "Cys_knot.sth"
    lines = [line.split() for line in _text(path).splitlines() if line and not line.startswith(("#", "//"))]
    _assert_as_columns(path, [name for name, _ in lines], [row for _, row in lines])
    alignment = read_alignment(path)
    assert alignment.names[0] == alignment.names[1] == "GTHB2_ONCKE/26-130"
    assert alignment.letters.shape == (25, 105)
    assert merge([alignment]).letters.shape == (24, 105)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Cys_knot.slx", "SELEX (a name and a row on each line, without Stockholm's first line '# STOCKHOLM 1.0')"),
        ("PF10963.aln.gz", "PSICOV .aln (a row on each line, without names)"),
        ("of73_pdb70_hits.hhr.gz", "an HHsearch result (.hhr)"),
    ],
)
def test_other_formats_are_named(name, what):
    with pytest.raises(DataError) as caught:
        read_alignment(ODD / name)
    assert str(caught.value) == (
        f"{ODD / name}: this is {what}, which is not read as an alignment; convert it to a3m, a2m, aligned FASTA or "
        f"Stockholm."
    )


def test_the_three_searches_of_one_protein_are_merged():
    """As AlphaFold's pipeline does it: counted row by row, for the installed copy leaves repetitions in."""
    names = ("of73_uniref90_hits.sto.gz", "of73_mgnify_hits.sto.gz", "of73_bfd_uniclust_hits.a3m.gz")
    alignments = [read_alignment(ODD / name) for name in names]
    merged = merge(alignments)
    expected = {}
    for alignment in alignments:
        for name, row, counts in zip(alignment.names, alignment.letters, alignment.deletions, strict=True):
            expected.setdefault(row.tobytes(), (name, counts.tolist()))
    assert [row.tobytes() for row in merged.letters] == list(expected)
    assert list(zip(merged.names, merged.deletions.tolist(), strict=True)) == list(expected.values())
    assert len(merged.names) < sum(len(alignment.names) for alignment in alignments)


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_alignments_of_the_proteins_are_read_as_alphafold_reads_them(step):
    paths = sorted([*REAL.glob("p*/*/*.a3m.gz"), *REAL.glob("public/*/*.sto.gz")])
    assert len(paths) == 180 + 87 + 21
    for path in paths[::step]:
        _assert_as_alphafold(path)
