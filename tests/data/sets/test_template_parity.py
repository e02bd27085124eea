"""Templates from hits and real structures equal those of AlphaFold's code and of OpenFold's pipeline."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_hits import hhr_text, random_row, random_sequence, random_stockholm_row, stockholm_text

from evotrain.data.formats.hits import read_hits
from evotrain.data.formats.polymer import read_polymers
from evotrain.data.formats.template_arrays import read_templates, templates_from_arrays
from evotrain.data.sets.templates import find_templates

# Real entries that AlphaFold's own reader of mmCIF takes: among them several chains, selenomethionine, NMR models.
REAL = {
    "1hf9": "public/1hf9_A/structure", "1ubq": "public/1ubq_A/structure", "2q2k": "public/2q2k_A/structure",
    "3l4q": "public/3l4q_A/structure", "4i6p": "public/4i6p_A/structure", "1a8o": "odd/structures/1a8o",
    "1l2y": "odd/structures/1l2y_A", "2lwu": "odd/structures/2lwu", "1lcd": "odd/structures/1lcd",
    "0099": "odd/structures/0099",
}  # fmt: skip
DATE = "_pdbx_audit_revision_history.revision_date"


@pytest.fixture(scope="module")
def entries(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real entries as plain mmCIF, each with a date, for AlphaFold's reader needs one."""
    directory = tmp_path_factory.mktemp("entries")
    for entry, file in REAL.items():
        text = gzip.decompress((realdata.parent / f"{file}.cif.gz").read_bytes()).decode()
        (directory / f"{entry}.cif").write_text(text if DATE in text else f"{text}\n{DATE} 2001-02-03\n")
    return directory


def _featurized(directory, query, hits, kind="Hhsearch"):
    """AlphaFold's templates of hits that its parsers have read."""
    templates = pytest.importorskip("alphafold.data.templates")
    featurizer = getattr(templates, f"{kind}HitFeaturizer")(str(directory), "2100-01-01", 20, "no kalign", None, None)
    result = featurizer.get_templates(query, hits)
    assert not result.errors
    return templates_from_arrays(Path("AlphaFold's"), result.features, len(query))


def _assert_equal(found, expected):
    for name, x in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), x, err_msg=name)


def _with_unknown(rng, row):
    letters = np.array(list(row.hit))
    letters[rng.random(len(letters)) < 0.1] = "X"
    return replace(row, hit="".join(np.where(np.array(list(row.hit)) == "-", "-", letters)))


def test_hhsearch_hits_in_real_entries_equal_alphafolds(entries, tmp_path):
    parsers = pytest.importorskip("alphafold.data.parsers")
    rng = np.random.default_rng(1)
    query = random_sequence(rng, 90)
    rows = []
    for entry in REAL:
        for chain in read_polymers(entries / f"{entry}.cif"):
            row = random_row(rng, f"{entry.upper()}_{chain.author_chain}", query, chain.sequence, 50 * rng.random())
            for other in (row, _with_unknown(rng, row)):  # of a chain that has got another name since
                rows.append(replace(other, name=f"{entry.upper()}_Z", sum_probs=50 * rng.random()))
            rows.append(row)
    path = tmp_path / "pdb70_hits.hhr"
    path.write_text(hhr_text(90, rows))
    theirs = parsers.parse_hhr(path.read_text())
    for part in range(0, len(rows), 20):
        hits = [hit for hit in read_hits(path, query)[part : part + 20] if hit.aligned_columns > 9]
        used = [hit for hit in theirs[part : part + 20] if hit.aligned_cols > 9]
        found = find_templates(query, hits, entries, before=None, own_entry=None)
        assert len(found.aatype) == len(hits) > 10
        _assert_equal(found, _featurized(entries, query, used))


def test_hmmsearch_hits_in_real_entries_equal_alphafolds(entries, tmp_path):
    parsers = pytest.importorskip("alphafold.data.parsers")
    rng = np.random.default_rng(2)
    rows = []
    columns = rng.random(80) < 0.9
    query = random_sequence(rng, int(columns.sum()))
    for entry in REAL:
        for chain in read_polymers(entries / f"{entry}.cif"):
            letters = np.array(list(random_stockholm_row(rng, columns)))
            residues = np.flatnonzero(np.char.isalpha(letters))[: len(chain.sequence)]
            start = int(rng.integers(len(chain.sequence) - len(residues) + 1))
            padding = np.where(columns, "-", ".")
            padding[residues] = list(chain.sequence[start : start + len(residues)])
            row = "".join(np.where(columns, padding, np.char.lower(padding)))
            name = f"{entry}_{chain.author_chain}/{start + 1}-{start + len(residues)}"
            rows.append((name, "[subseq from] mol:protein length:300  Text", row))
    rows += [(name.replace("/", "9/"), description, row) for name, description, row in rows]  # again: copies
    path = tmp_path / "pdb_hits.sto"
    path.write_text(stockholm_text(rows))
    a3m = parsers.convert_stockholm_to_a3m(path.read_text(), remove_first_row_gaps=False)
    enough = [hit.aligned_columns > max(0.1 * len(query), 9) for hit in read_hits(path, query)]
    hits, theirs = (
        [hit for hit, kept in zip(listed, enough, strict=True) if kept]
        for listed in (read_hits(path, query), parsers.parse_hmmsearch_a3m(query, a3m, skip_first=False))
    )
    found = find_templates(query, hits, entries, before=None, own_entry=None)
    _assert_equal(found, _featurized(entries, query, theirs, "Hmmsearch"))
    assert 10 < len(found.aatype) < len(hits) - 5  # which has copies


def test_a_real_search_gives_the_templates_that_openfold_has_found(realdata, tmp_path):
    features = realdata.parent / "features/openfold_raw_feature_dict.npz"
    with np.load(features) as file:
        query = file["sequence"][0].decode()
        names = [name.decode() for name in file["template_domain_names"]]
    expected = read_templates(features, len(query))
    here = []
    for place, name in enumerate(names):
        for structure in realdata.glob(f"{name[:4]}_*/structure.cif.gz"):
            (tmp_path / f"{name[:4]}.cif.gz").symlink_to(structure)
            here.append(place)
    assert len(here) >= 6
    hits = read_hits(realdata.parent / "odd/alignments/of73_pdb70_hits.hhr.gz", query)
    found = find_templates(query, hits, tmp_path, before=None, own_entry=None)
    for name, x in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), x[here], err_msg=name)
