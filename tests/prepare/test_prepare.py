"""Preparing gives the same bytes however the work is cut, goes on after any end, and answers mistakes in a sentence."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_run
from made_sets import write_raw_set

import evotrain.prepare.command
from evotrain.config import Config, PrepareConfig
from evotrain.data.sets.protein_set import PREPARED_FILE, open_set
from evotrain.data.sets.raw import RawSet
from evotrain.data_config import MsaDirConfig, ProteinSetConfig
from evotrain.errors import ConfigError, DataError, RunError
from evotrain.prepare.command import prepare
from evotrain.prepare.readers import Readers

NAMES = [f"p{number}" for number in range(7)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Seven proteins, of which one cannot be read; never changed by a test."""
    return write_raw_set(tmp_path_factory.mktemp("made") / "raw", NAMES, templates=("p1",), broken=("p4",))


@pytest.fixture(scope="module")
def expected(raw, tmp_path_factory):
    """What one job with one process makes of it, two proteins a file."""
    out = tmp_path_factory.mktemp("expected") / "out"
    _prepare(raw, out)
    return _content(out)


def _prepare(root, out, *, shard="0/1", workers=1, proteins_per_file=2, **data):
    options = {} if out is None else {"out": str(out)}
    data = MsaDirConfig(root=str(root), crop=8, msa_clusters=4, **data)
    options |= {"shard": shard, "workers": workers, "proteins_per_file": proteins_per_file}
    prepare(Config(command="prepare", data=data, prepare=PrepareConfig(**options)))


def _content(out):
    """The bytes of every file, the figure's too (its title names the directory, which must be `out`)."""
    return {file.name: file.read_bytes() for file in out.iterdir()}


def _sentence(error, *arguments, **options):
    with pytest.raises(error) as caught:
        _prepare(*arguments, **options)
    return str(caught.value)


def test_what_is_written(raw, expected, tmp_path, capfd):
    _prepare(raw, tmp_path / "out")
    assert sorted(expected) == [
        "index.npy",
        "lengths.png",
        "prepared.json",
        *(f"proteins-0000{number}-of-00004.array_record" for number in range(4)),
        "report.json",
    ]
    assert expected["lengths.png"].startswith(b"\x89PNG")
    report = json.loads(expected["report.json"])
    source = RawSet(ProteinSetConfig(root=str(raw)))
    read = [source.read(name) for name in NAMES if name != "p4"]
    assert report["proteins"] == 6
    assert list(report["skipped"]) == ["p4"]
    assert report["skipped"]["p4"].startswith(f"{raw / 'p4' / 'msa.a3m'}, line ")
    assert report["with_templates"] == 1
    assert report["residues"] == sum(protein.msa.shape[1] for protein in read)
    assert report["alignment_rows"] == sum(protein.msa.shape[0] for protein in read)
    assert report["residue_rows"] == sum(protein.msa.size for protein in read)
    assert report["raw_bytes"] == sum(
        file.stat().st_size for name in NAMES if name != "p4" for file in (raw / name).iterdir()
    )
    assert report["prepared_bytes"] == sum(len(data) for name, data in expected.items() if name.startswith("proteins"))
    assert report["length"]["max"] == max(protein.msa.shape[1] for protein in read)
    shown = capfd.readouterr().out
    assert "6, 1 skipped, 0 left out" in shown
    assert f"skipped: p4: {report['skipped']['p4']}" in shown
    assert f"train on it with data.root={tmp_path / 'out'}" in shown
    assert max(len(line) for line in shown.splitlines() if "p4" not in line and str(tmp_path) not in line) <= 100


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_do_not_depend_on_the_processes(raw, expected, tmp_path, workers):
    _prepare(raw, tmp_path / "out", workers=workers)
    assert _content(tmp_path / "out") == expected


@pytest.mark.parametrize("shards", [["0/3", "1/3", "2/3"], ["1/2", "0/2"], [f"{part}/6" for part in range(6)]])
def test_jobs_together_make_what_one_makes(raw, expected, tmp_path, shards, capfd):
    out = tmp_path / "out"
    for shard in shards:
        if 0 < len(list(out.glob("*.array_record"))) < 4:
            with pytest.raises(DataError, match=r"is not completely prepared: give the same command=prepare again"):
                open_set(ProteinSetConfig(root=str(out)))
        _prepare(raw, out, shard=shard)
    assert _content(out) == expected
    shown = capfd.readouterr().out
    assert shown.count("other jobs make the rest.") == min(len(shards), 4) - 1
    assert shown.count("train on it") == 1
    assert shown.count("is prepared already") == max(len(shards) - 4, 0)


def test_the_fingerprint_is_that_of_the_proteins(raw, expected, tmp_path):
    _prepare(raw, tmp_path / "out", proteins_per_file=1024)
    fingerprints = [
        json.loads(data)["fingerprint"] for data in (expected[PREPARED_FILE], _content(tmp_path / "out")[PREPARED_FILE])
    ]
    assert fingerprints[0] == fingerprints[1]
    changed = write_raw_set(tmp_path / "changed", NAMES, templates=("p1", "p2"), broken=("p4",))
    _prepare(changed, tmp_path / "other")
    assert json.loads((tmp_path / "other" / PREPARED_FILE).read_bytes())["fingerprint"] != fingerprints[0]


def test_a_finished_directory_stays_as_it_is(raw, expected, tmp_path, capfd):
    out = tmp_path / "out"
    _prepare(raw, out)
    capfd.readouterr()
    _prepare(raw, out)
    assert capfd.readouterr().out == f"{out} is prepared already; to prepare it anew, delete it first.\n"
    assert _content(out) == expected


def test_it_goes_on_after_an_interruption(raw, expected, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    read = Readers.read

    def read_some(readers, names):
        for reading in read(readers, names):
            if reading.name == "p3":
                raise KeyboardInterrupt
            yield reading

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Readers, "read", read_some)
        _prepare(raw, out)
    files = sorted(file.name for file in out.iterdir())
    first = "proteins-00000-of-00004"
    assert files == [PREPARED_FILE, f"{first}.array_record", f"{first}.json"]  # whole files only
    assert "1 of 4 files are written; the same command makes the others." in capfd.readouterr().out
    (out / ".proteins-00001-of-00004.array_record.elsewhere-1.tmp").touch()  # of a job that was killed
    before = (out / f"{first}.array_record").stat().st_mtime_ns
    _prepare(raw, out, workers=2)
    assert (out / f"{first}.array_record").stat().st_mtime_ns == before
    assert _content(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_goes_on_after_the_end_of_its_process(tmp_path, user_environment, number):
    names = [f"p{number:03d}" for number in range(150)]
    raw = write_raw_set(tmp_path / "raw", names)
    _prepare(raw, tmp_path / "whole" / "out")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "evotrain", "command=prepare", f"data.root={raw}", f"prepare.out={out}"]
    command += ["prepare.proteins_per_file=2", "prepare.workers=2"]
    process = subprocess.Popen(command, env=user_environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not list(out.glob("*.array_record")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(number)
    shown = process.communicate(timeout=60)[0].decode()
    if number == signal.SIGINT:
        assert process.returncode == 130, shown
        assert "Traceback" not in shown
        assert not list(out.glob(".*.tmp"))
    assert json.loads((out / PREPARED_FILE).read_bytes())["complete"] is False
    _prepare(raw, out)
    assert _content(out) == _content(tmp_path / "whole" / "out")


def test_files_that_were_lost_are_made_again(raw, expected, tmp_path):
    out = tmp_path / "out"
    _prepare(raw, out, shard="0/2")
    path = out / "proteins-00002-of-00004.array_record"
    path.write_bytes(path.read_bytes()[:100])
    (out / "proteins-00000-of-00004.array_record").unlink()
    _prepare(raw, out)
    assert _content(out) == expected


def test_mistakes_with_directories(raw, expected, tmp_path):
    out = tmp_path / "out"
    assert _sentence(ConfigError, raw, raw) == (
        f"prepare.out={raw} is data.root={raw}, which is only read: write another directory."
    )
    assert _sentence(ConfigError, raw, raw / "p1") == (
        f"prepare.out={raw / 'p1'} lies in data.root={raw}, which is only read: write another directory."
    )
    (tmp_path / "link").symlink_to(raw)
    assert "which is only read" in _sentence(ConfigError, raw, tmp_path / "link" / "new")
    assert not (raw / "new").exists()
    out.mkdir()
    (out / "notes.txt").touch()
    assert _sentence(ConfigError, raw, out) == (
        f"prepare.out={out} holds something else (notes.txt): write a new or an empty directory."
    )
    assert f"prepare.out={raw.parent} holds something else" in _sentence(ConfigError, raw, raw.parent)
    (out / "notes.txt").unlink()
    _prepare(raw, out)
    assert _sentence(ConfigError, out, tmp_path / "again") == (
        f"data.root={out} is prepared already: train on it, or name the raw files."
    )
    assert "no such directory" in _sentence(DataError, tmp_path / "nowhere", tmp_path / "new")


@pytest.mark.parametrize("shard", ["", "1", "2/2", "-1/2", "0/0", "a/b", "1/2/3", "1.0/2"])
def test_shards_that_do_not_exist(raw, tmp_path, shard):
    assert _sentence(ConfigError, raw, tmp_path / "out", shard=shard) == (
        f"prepare.shard={shard} is no part of the work: write i/n with i from 0 to n - 1, as in 0/8."
    )
    assert not (tmp_path / "out").exists()


def test_settings_that_changed(raw, tmp_path):
    out, structures = tmp_path / "out", tmp_path / "structures"
    structures.mkdir()
    _prepare(raw, out, shard="0/2")
    assert _sentence(ConfigError, raw, out, proteins_per_file=3) == (
        f"{out} was begun with prepare.proteins_per_file=2, not 3: write the same again, or another prepare.out."
    )
    assert _sentence(ConfigError, raw, out, structures=str(structures)) == (
        f"{out} was begun with data.structures=null, not {structures}: write the same again, or another prepare.out."
    )
    manifest = json.loads((out / PREPARED_FILE).read_bytes())
    (out / PREPARED_FILE).write_text(json.dumps(manifest | {"format": 0}))
    assert _sentence(ConfigError, raw, out) == (
        f"{out} was begun by another version of evotrain: delete it, or write another prepare.out."
    )


@pytest.mark.parametrize("change", ["added", "removed", "index"])
def test_proteins_that_changed(tmp_path, change):
    raw, out = write_raw_set(tmp_path / "raw", NAMES), tmp_path / "out"
    _prepare(raw, out, shard="0/2")
    if change == "added":
        write_raw_set(raw, ["p2b"])
    elif change == "removed":
        (raw / "p2" / "structure.pdb").unlink()
    else:
        (raw / "index.csv").write_text("id,split\np1,val\n")
    assert _sentence(DataError, raw, out) == (
        f"{raw}: its proteins or its index.csv have changed since {out} was begun: write another prepare.out, or "
        "delete this one to start over."
    )


def test_files_that_changed(tmp_path):
    raw, out = write_raw_set(tmp_path / "raw", NAMES), tmp_path / "out"
    _prepare(raw, out, shard="0/2")
    alignment = raw / "p5" / "msa.a3m"
    alignment.write_text(alignment.read_text() + ">more\n" + alignment.read_text().splitlines()[1] + "\n")
    note = out / "proteins-00002-of-00004.json"
    assert _sentence(DataError, raw, out) == (
        f"{raw}: files of p4 to p5 have changed since proteins-00002-of-00004.array_record was made of them: delete "
        f"{note} and start again."
    )
    note.unlink()
    _prepare(raw, out)
    assert open_set(ProteinSetConfig(root=str(out))).facts("p5") == RawSet(ProteinSetConfig(root=str(raw))).facts("p5")


class _FullDisk:
    """As ArrayRecord's writer says that the disk is full: sometimes only when it is closed."""

    def __init__(self, path, options):
        Path(path).touch()

    def write(self, record):
        pass

    def close(self):
        raise RuntimeError("write() failed: No space left on device; writing proteins; at byte 0")


def test_a_full_disk(raw, expected, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(evotrain.prepare.command, "ArrayRecordWriter", _FullDisk)
        assert _sentence(RunError, raw, out) == (
            f"cannot write {out / 'proteins-00000-of-00004.array_record'}: the disk is full: free some space and start "
            "the same command again, it continues by itself"
        )
    assert [file.name for file in out.iterdir()] == [PREPARED_FILE]
    _prepare(raw, out)
    assert _content(out) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written(raw, tmp_path):
    tmp_path.chmod(0o500)
    assert "choose a prepare.out=… that you may write to" in _sentence(RunError, raw, tmp_path / "out")


def test_a_path_that_is_a_file(raw, tmp_path):
    (tmp_path / "file").touch()
    assert "choose another prepare.out=…" in _sentence(RunError, raw, tmp_path / "file" / "out")


def test_no_accelerator_is_touched(user_environment):
    program = "import sys, evotrain.prepare.command; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env=user_environment, check=True)


@pytest.mark.slow
def test_a_run_is_the_same_from_raw_files_and_from_prepared_ones(repository, one_device, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(repository / "data" / "sample", raw)
    with gzip.open(raw / "sample1" / "msa.a3m.gz", "at") as file:
        file.write("!\n")  # one of its proteins cannot be read
    _prepare(raw, out)
    for name, root in (("from_raw", raw), ("from_prepared", out)):
        tiny_run.train_tiny(tmp_path / name, "data=msa_dir", f"data.root={root}")
    rows = tiny_run.rows(tmp_path / "from_raw")
    assert rows == tiny_run.rows(tmp_path / "from_prepared")
    assert sum(row.get("data/substituted", 0) for row in rows) > 0
