import errno
import os
from pathlib import Path

import pytest

from evotrain.data.sets.layout import Files, find_proteins, left_out
from evotrain.errors import DataError, RunError


def _touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def _find(root, structures=None):
    return find_proteins(root, structures, with_hits=True)


def _sentence(root, structures=None):
    with pytest.raises(DataError) as caught:
        find_proteins(root, structures, with_hits=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["p/msa.a3m", "p/structure.cif"], {"alignments": (("p/msa.a3m", None),), "structure": "p/structure.cif"}),
        (["p/msa.sto.gz", "p/structure.pdb.gz", "p/templates.npz"],
         {"alignments": (("p/msa.sto.gz", None),), "structure": "p/structure.pdb.gz", "templates": "p/templates.npz"}),
        (["p/msa.fasta", "p/uniref90_hits.sto", "p/features.npz", "p/structure.ent"],
         {"alignments": (("p/msa.fasta", None),), "structure": "p/structure.ent"}),
        (["p/features.npz", "p/uniref90_hits.sto", "p/labels.npz"],
         {"features": "p/features.npz", "labels": "p/labels.npz"}),
        (["p/features.npz", "p/labels.npz", "p/structure.cif"],
         {"features": "p/features.npz", "structure": "p/structure.cif"}),
        (["p/mgnify_hits.sto", "p/bfd_uniref_hits.a3m", "p/uniref90_hits.sto", "p/uniprot_hits.sto", "p/pdb_hits.sto",
          "p/structure.cif"],
         {"alignments": (("p/uniref90_hits.sto", 10_000), ("p/bfd_uniref_hits.a3m", None), ("p/mgnify_hits.sto", 501)),
          "hits": "p/pdb_hits.sto", "structure": "p/structure.cif"}),
        (["p/msas/small_bfd_hits.sto", "p/structure.cif"],
         {"alignments": (("p/msas/small_bfd_hits.sto", None),), "structure": "p/structure.cif"}),
        (["p/a3m/uniclust30.a3m", "p/hhr/pdb70_hits.hhr", "p/other/msa.a3m", "p/structure.pdb"],
         {"alignments": (("p/a3m/uniclust30.a3m", None),), "hits": "p/hhr/pdb70_hits.hhr",
          "structure": "p/structure.pdb"}),
        (["p.a3m", "p.pdb.gz"], {"alignments": (("p.a3m", None),), "structure": "p.pdb.gz"}),
        (["p/pdb70_hits.hhr", "p.a3m.gz", "p.cif"],
         {"alignments": (("p.a3m.gz", None),), "structure": "p.cif", "hits": "p/pdb70_hits.hhr"}),
    ],
)  # fmt: skip
def test_the_files_of_a_protein(tmp_path, names, files):
    _touch(tmp_path, *names, "index.csv", "README.md", "empty/notes.txt")
    assert _find(tmp_path) == ({"p": Files(**files)}, {})


def test_a_name_that_is_no_text_is_left_out(tmp_path):
    for name in ("größe", os.fsdecode(b"p\xff")):
        _touch(tmp_path, f"{name}/msa.a3m", f"{name}/structure.cif", os.fsdecode(b"no protein\xff/notes.txt"))
    files, unusable = _find(tmp_path)
    assert list(files) == ["größe"]
    assert unusable == {r"p\xff": "has a name that is no UTF-8: rename it"}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["p/msa.a3m"], "has no structure"),
        (["p/uniref90_hits.a3m"], "has no structure"),
        (["p.a3m"], "has no structure"),
        (["p/structure.cif"], "has no alignment"),
        (["p/labels.npz"], "has no alignment"),
        (["p/msa.a3m", "p/structure.cif.gz", "p/structure.pdb"], "has both structure.cif.gz and structure.pdb"),
        (["p/msa.a3m", "p/msa.a3m.gz", "p/structure.pdb"], "has both msa.a3m and msa.a3m.gz"),
        (["p/msa.a3m", "p/msa.sto", "p/structure.pdb"], "has both msa.a3m and msa.sto"),
        (["p/msa.a3m", "p.a3m", "p/structure.pdb"], "has both msa.a3m and p.a3m"),
        (["p/uniref90_hits.sto", "p/a3m/uniref90_hits.a3m", "p/structure.pdb"],
         "has both a3m/uniref90_hits.a3m and uniref90_hits.sto"),
        (["p/msa.a3m", "p/structure.pdb", "p/pdb_hits.sto", "p/hhr/pdb70_hits.hhr"],
         "has both hhr/pdb70_hits.hhr and pdb_hits.sto"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_protein(tmp_path, names, reason):
    _touch(tmp_path, *names, "good/msa.a3m", "good/structure.cif")
    files, unusable = _find(tmp_path)
    assert list(files) == ["good"]
    assert unusable == {"p": reason}


@pytest.mark.parametrize(("more", "with_hits"), [("templates.npz", True), ("structure.pdb", False)])
def test_lists_of_hits_that_are_not_read_are_not_looked_for(tmp_path, more, with_hits):
    _touch(tmp_path, "p/msa.a3m", "p/structure.pdb", "p/pdb_hits.sto", "p/hhr/pdb70_hits.hhr", f"p/{more}")
    files, _ = find_proteins(tmp_path, None, with_hits=with_hits)
    assert files["p"].hits is None


def test_structures_in_a_directory_of_their_own(tmp_path):
    root, structures = tmp_path / "alignments", tmp_path / "cif"
    ids = ("1abc_A", "1ABC_B", "2def_1_AA", "3ghi_C", "own_A", "whole", "lost_A", "lost")
    _touch(root, *(f"{name}/uniref90_hits.a3m" for name in ids), "own_A/structure.pdb", "flat_A.a3m")
    names = (
        "1abc.cif.gz",
        "1abc.pdb",
        "gh/3ghi.cif.gz",
        "own.cif",
        "whole.pdb",
        "2def_1.cif",
        "flat.cif",
        "readme.txt",
    )
    _touch(structures, *names)
    files, unusable = _find(root, structures)
    assert {name: (found.structure, found.chain) for name, found in files.items()} == {
        "1abc_A": (f"{structures}/1abc.cif.gz", "A"),
        "1ABC_B": (f"{structures}/1abc.cif.gz", "B"),
        "2def_1_AA": (f"{structures}/2def_1.cif", "AA"),
        "3ghi_C": (f"{structures}/gh/3ghi.cif.gz", "C"),
        "flat_A": (f"{structures}/flat.cif", "A"),
        "own_A": ("own_A/structure.pdb", None),
        "whole": (f"{structures}/whole.pdb", None),
    }
    assert unusable == {
        "lost": "has no structure, and data.structures no lost.cif",
        "lost_A": "has no structure, and data.structures neither lost_A.cif nor lost.cif",
    }
    missing = tmp_path / "missing"
    assert _sentence(root, missing) == f"data.structures={missing}: no such directory (it would be {missing})."


def test_a_root_that_is_one_alignment(tmp_path):
    _touch(tmp_path, "p.a3m", "p.cif", "q.a3m", "q.cif", "r/msa.a3m", "r/structure.cif")
    expected = {"p": Files(alignments=(("p.a3m", None),), structure="p.cif")}
    assert _find(tmp_path / "p.a3m") == (expected, {})
    assert list(_find(tmp_path)[0]) == ["p", "q", "r"]


def test_links_are_followed(tmp_path):
    """As OpenProteinSet's chains with the sequence of another one are."""
    _touch(tmp_path, "a/msa.a3m", "a/structure.cif")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("nowhere")
    assert list(_find(tmp_path)[0]) == ["a", "b"]


def test_a_directory_that_is_no_data_set(tmp_path):
    missing = tmp_path / "missing"
    assert _sentence(missing) == f"data.root={missing}: no such directory (it would be {missing})."
    (tmp_path / "file").touch()
    assert _sentence(tmp_path / "file").startswith(f"data.root={tmp_path}/file: cannot be listed as a directory (Not a")
    (tmp_path / "one").mkdir()
    assert _sentence(tmp_path) == (
        f"data.root={tmp_path}: none of its 1 folders is a protein; each needs msa.a3m[.gz] and "
        f"structure.cif[.gz] or structure.pdb[.gz] (other layouts: data/README.md)."
    )
    _touch(tmp_path, "one/structure.cif", "two/structure.cif")
    assert "none of its 2 folders is a protein; 2 folders left out (one has no alignment, …); each" in _sentence(
        tmp_path
    )


def test_a_relative_root_is_relative_to_the_current_directory(tmp_path, monkeypatch):
    _touch(tmp_path, "a/msa.a3m", "a/structure.cif", "b.a3m", "b.cif")
    monkeypatch.chdir(tmp_path)
    assert _find(Path()) == _find(tmp_path)
    assert list(_find(Path("b.a3m"))[0]) == ["b"]


def test_a_folder_that_cannot_be_listed_does_not_stop_the_others(tmp_path, monkeypatch):
    _touch(tmp_path, "a/msa.a3m", "a/structure.cif", "b/msa.a3m", "b/structure.cif")

    def scandir(path):
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    listed = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)  # the superuser may read everything
    files, unusable = _find(tmp_path)
    assert list(files) == ["b"]
    assert left_out(unusable) == "1 folder left out (a cannot be read (Permission denied))"


def test_a_folder_that_the_disk_does_not_list_is_not_left_out(tmp_path, monkeypatch):
    _touch(tmp_path, "a/msa.a3m", "a/structure.cif", "b/msa.a3m", "b/structure.cif")

    def scandir(path):
        if Path(path).name == "a" and faults:
            raise faults.pop()
        return listed(path)

    listed, faults = os.scandir, [OSError(errno.EIO, "Input/output error")] * 2
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert list(_find(tmp_path)[0]) == ["a", "b"]
    faults += [OSError(errno.EIO, "Input/output error")] * 3
    with pytest.raises(RunError, match=r"/a: cannot be read, in 3 attempts \(Input/output error\)"):
        _find(tmp_path)


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    names = [f"p{i}" for i in range(20)]
    _touch(tmp_path, *(f"{name}/{file}" for name in names for file in ("msa.a3m", "structure.cif", "old/msa.a3m")))
    _touch(tmp_path, "p0/a3m/other.a3m")
    listed, asked = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: asked.append(str(path)) or listed(path))
    assert len(_find(tmp_path)[0]) == 20
    assert sorted(asked) == sorted([str(tmp_path), str(tmp_path / "p0/a3m"), *(str(tmp_path / name) for name in names)])
