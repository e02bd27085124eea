"""A prepared set gives what the raw files give, and survives what happens to files."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from made_sets import write_raw_set
from same_protein import assert_same_protein

from evotrain.config import Config, PrepareConfig
from evotrain.data.sets import prepared
from evotrain.data.sets.prepared import TABLE_FILE, PreparedSet
from evotrain.data.sets.protein_set import PREPARED_FILE, open_set
from evotrain.data.sets.raw import RawSet
from evotrain.data_config import MsaDirConfig, ProteinSetConfig
from evotrain.errors import ConfigError, DataError
from evotrain.prepare.command import prepare

NAMES = [f"p{number}" for number in range(8)]
INDEX = "id,chain,split,cluster,source\n" + "".join(
    f"p{number},A,{'val' if number == 5 else 'train'},c{number // 2},x\n" for number in range(8)
)


def _prepare(root, out, *, workers=1, proteins_per_file=3, **data):
    data = MsaDirConfig(root=str(root), crop=8, msa_clusters=4, **data)
    options = PrepareConfig(out=str(out), workers=workers, proteins_per_file=proteins_per_file)
    prepare(Config(command="prepare", data=data, prepare=options))


def _open(root, **settings):
    return open_set(ProteinSetConfig(root=str(root), **settings))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A raw set and the same prepared; a test that changes the latter works on a copy."""
    folder = tmp_path_factory.mktemp("made")
    raw = write_raw_set(folder / "raw", NAMES, templates=("p1", "p5"), broken=("p4",), index=INDEX)
    (raw / "unfinished").mkdir()
    (raw / "unfinished" / "msa.a3m").touch()
    _prepare(raw, folder / "prepared")
    return raw, folder / "prepared"


@pytest.fixture
def copy(made, tmp_path):
    for file in made[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_it_is_the_same_set(made):
    raw, files = (_open(root) for root in made)
    assert isinstance(raw, RawSet)
    assert isinstance(files, PreparedSet)
    assert files.ids == raw.ids == NAMES
    assert files.index == raw.index
    assert files.unusable == raw.unusable
    assert list(files.unusable) == ["unfinished"]
    for name in NAMES:
        if name != "p4":
            assert_same_protein(raw.read(name), files.read(name))
            assert files.facts(name) == raw.facts(name)
            assert [type(value) for value in vars(files.facts(name)).values()] == [int, int, float, str, float]
    assert files.read("p1").templates is not None
    assert files.read("p2").templates is None


def test_what_could_not_be_read_is_asked_for_and_refused_alike(made):
    raw, files = (_open(root) for root in made)
    for read in ("read", "facts"):
        with pytest.raises(DataError) as of_files:
            getattr(files, read)("p4")
    with pytest.raises(DataError) as of_raw:
        raw.read("p4")
    assert str(of_files.value) == str(of_raw.value)
    assert files.description == (f"{raw.description}; 1 protein could not be read (p4) when the set was prepared")
    assert files.files("p4") == []


def test_files_names_the_file_of_a_protein(made):
    files = _open(made[1])
    assert files.files("p0") == [made[1] / "proteins-00000-of-00003.array_record"]
    assert files.files("p7") == [made[1] / "proteins-00002-of-00003.array_record"]


def test_it_is_sent_to_other_processes_as_its_config(made):
    files = _open(made[1])
    files.read("p0")
    sent = pickle.dumps(files)
    assert len(sent) < 1000
    assert_same_protein(pickle.loads(sent).read("p7"), files.read("p7"))


def test_many_threads_read_at_once(made, monkeypatch):
    monkeypatch.setattr(prepared, "OPEN_FILES", 2)
    files = _open(made[1])
    expected = {name: files.read(name).msa.tobytes() for name in NAMES if name != "p4"}
    names = list(np.random.default_rng(0).permutation(list(expected) * 50))
    with ThreadPoolExecutor(8) as pool:
        assert all(protein.msa.tobytes() == expected[protein.name] for protein in pool.map(files.read, names))
    assert len(files._readers._open) <= 2


def test_a_file_that_is_lost_in_mid_run_concerns_its_own_proteins(copy):
    files = _open(copy)
    path = files.files("p0")[0]
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=rf"^{path}: record 0 cannot be read \(.*\); copy the file again\.$"):
        files.read("p0")
    other = pickle.loads(pickle.dumps(files))  # a worker that is started later
    for reader in (files, other):
        assert reader.read("p7").name == "p7"
        with pytest.raises(DataError):
            reader.read("p1")
    path.write_bytes(content)
    assert files.read("p0").name == "p0"


@pytest.mark.parametrize("opened_before", [False, True])
def test_a_file_that_is_cut_in_mid_run(copy, opened_before):
    files = _open(copy)
    path = files.files("p0")[0]
    if opened_before:
        files.read("p0")
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"copy the file again\.$"):
        files.read("p1")


def test_damage_within_a_file(copy):
    files = _open(copy)
    path = files.files("p0")[0]
    content = bytearray(path.read_bytes())
    for place in range(100, 2000, 50):
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{path}: record \d cannot be read"):
        files.read("p0")


def test_files_of_two_sets_are_not_mixed(copy):
    files = _open(copy)
    first, second = files.files("p0")[0], files.files("p3")[0]
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match=r"record 0 is p3; copy it and index\.npy from one place\.$"):
        files.read("p0")


def _edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_directory_that_lacks_something_is_refused_at_once(copy):
    def sentence():
        with pytest.raises(DataError) as caught:
            _open(copy)
        return str(caught.value)

    manifest, index = copy / PREPARED_FILE, copy / TABLE_FILE
    path = copy / "proteins-00001-of-00003.array_record"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert sentence() == f"{path}: has {len(content) - 1} bytes instead of {len(content)}; copy the file again."
    path.unlink()
    assert sentence() == f"{path}: cannot be read (No such file or directory); copy the file again."
    path.write_bytes(content)
    _open(copy)

    table = np.load(index)
    content = index.read_bytes()
    np.save(index, table[:-1])
    assert sentence() == f"{index}: is not the index of the 8 proteins of prepared.json; copy both again."
    np.save(index, table["id"])
    assert sentence() == f"{index}: is not the index of the 8 proteins of prepared.json; copy both again."
    np.save(index, np.array([{}] * 8))
    assert sentence().startswith(f"{index}: cannot be read (Object arrays cannot be loaded")
    for part in (b"", content[:100], content[:-1], b"PK" + content):
        index.write_bytes(part)
        assert sentence().startswith(f"{index}: cannot be read (")
    index.unlink()
    assert (
        sentence() == f"{index}: cannot be read ([Errno 2] No such file or directory: '{index}'); copy the file again."
    )
    index.write_bytes(content)

    _edit(manifest, complete=False)
    assert sentence() == (
        f"{copy} is not completely prepared: give the same command=prepare again, it goes on where it was."
    )
    _edit(manifest, complete=True, format=2)
    assert sentence().startswith(f"{manifest}: the files are of format 2, and this evotrain reads format 1")
    manifest.write_text("{")
    assert sentence().startswith(f"{manifest}: cannot be read")


@pytest.mark.parametrize("name", ["structures", "template_structures", "templates_before"])
def test_what_had_to_be_chosen_before_is_refused(made, name):
    with pytest.raises(ConfigError) as caught:
        _open(made[1], **{name: "2020-01-01"})
    assert str(caught.value) == (
        f"data.{name}=2020-01-01 changes nothing for the prepared files in {made[1]}: leave it out, or prepare "
        "the raw files with it."
    )


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["public", "predicted"])
def test_real_proteins_are_the_same(realdata, tmp_path, folder):
    root = realdata.parent / folder
    _prepare(root, tmp_path / "out", workers=2, proteins_per_file=50)
    raw, files = _open(root), _open(tmp_path / "out")
    assert files.ids == raw.ids
    assert files.index.keys() <= raw.index.keys()
    for name in raw.ids:
        assert_same_protein(raw.read(name), files.read(name))
        assert files.facts(name) == raw.facts(name)
    sizes = [file.stat().st_size for name in raw.ids for file in raw.files(name)]
    assert sum(file.stat().st_size for file in Path(tmp_path / "out").glob("*.array_record")) < 0.6 * sum(sizes)
