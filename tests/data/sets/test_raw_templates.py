"""Which of the hits that stand with a protein it is shown as templates."""

import numpy as np
import pytest
from made_hits import Row, hhr_text, random_sequence
from made_structures import mmcif_text

from evotrain.data.sets.raw import RawSet
from evotrain.data_config import ProteinSetConfig

QUERY = random_sequence(np.random.default_rng(0), 40)
HIT = random_sequence(np.random.default_rng(1), 40)


def _templates(tmp_path, *, name="9xyz_A", released="", templates_before=None, entries):
    """Number of templates of a protein that was released then, with hits in entries of these dates."""
    folder, structures = tmp_path / "sets" / name, tmp_path / "cif"
    for directory in (folder, structures):
        directory.mkdir(parents=True, exist_ok=True)
    (folder / "msa.a3m").write_text(f">q\n{QUERY}\n")
    (folder / "structure.cif").write_text(mmcif_text({"A": QUERY}, released))
    rows = [Row(f"{entry}_A", QUERY, 1, HIT, 1) for entry in entries]
    (folder / "pdb70_hits.hhr").write_text(hhr_text(len(QUERY), rows))
    for entry, date in entries.items():
        (structures / f"{entry.lower()}.cif").write_text(mmcif_text({"A": HIT}, date))
    config = ProteinSetConfig(
        root=str(folder.parent), template_structures=str(structures), templates_before=templates_before
    )
    data = RawSet(config)
    assert folder / "pdb70_hits.hhr" in data.files(name)
    found = data.read(name).templates
    return 0 if found is None else len(found.aatype)


@pytest.mark.parametrize("name", ["1abc_B", "1ABC_B", "1abc", "1abc_B_2", "pdb_00001abc_B", "PDB_00001ABC_B"])
@pytest.mark.parametrize("hit", ["1ABC", "pdb_00001abc"])
def test_no_template_is_of_the_proteins_own_entry(tmp_path, name, hit):
    assert _templates(tmp_path, name=name, entries={hit: "2001-01-01", "2ABC": "2001-01-01"}) == 1


@pytest.mark.parametrize("name", ["2abc_B", "pdb_00002abc_B", "pdb_10001abc_B", "query"])
@pytest.mark.parametrize("hit", ["1ABC", "pdb_00001abc"])
def test_templates_of_other_entries(tmp_path, name, hit):
    assert _templates(tmp_path, name=name, entries={hit: "2001-01-01"}) == 1


@pytest.mark.parametrize(
    ("released", "before", "count"),
    [
        ("2010-05-05", None, 2),
        ("2010-05-06", None, 3),
        ("", None, 5),
        ("2010-05-05", "2020-01-01", 2),
        ("2020-01-01", "2010-05-05", 2),
        ("", "2010-05-06", 3),
    ],
)
def test_templates_are_older_than_the_protein_and_the_date(tmp_path, released, before, count):
    """The earlier of the two counts; a template without a date is shown where neither is known."""
    dates = ("2000-01-01", "2010-05-04", "2010-05-05", "2015-01-01", "")
    entries = {f"{number}ABC": date for number, date in enumerate(dates)}
    assert _templates(tmp_path, released=released, templates_before=before, entries=entries) == count
