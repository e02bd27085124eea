"""Preparing gives the same bytes however the work is cut, and goes on after any end."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny_run
from made_sets import write_raw_set
from small_jobs import NAMES, content, prepare_set

from evotrain.data.sets.protein_set import PREPARED_FILE, open_set
from evotrain.data.sets.raw import RawSet
from evotrain.data_config import ProteinSetConfig
from evotrain.errors import DataError
from evotrain.prepare.readers import Readers


def test_what_is_written(raw, expected, tmp_path, capfd):
    prepare_set(raw, tmp_path / "out")
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
    prepare_set(raw, tmp_path / "out", workers=workers)
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("shards", [["0/3", "1/3", "2/3"], ["1/2", "0/2"], [f"{part}/6" for part in range(6)]])
def test_jobs_together_make_what_one_makes(raw, expected, tmp_path, shards, capfd):
    out = tmp_path / "out"
    for shard in shards:
        if 0 < len(list(out.glob("*.array_record"))) < 4:
            with pytest.raises(DataError, match=r"is not completely prepared: give the same command=prepare again"):
                open_set(ProteinSetConfig(root=str(out)))
        prepare_set(raw, out, shard=shard)
    assert content(out) == expected
    shown = capfd.readouterr().out
    assert shown.count("other jobs make the rest.") == min(len(shards), 4) - 1
    assert shown.count("train on it") == 1
    assert shown.count("is prepared already") == max(len(shards) - 4, 0)


def test_the_fingerprint_is_that_of_the_proteins(raw, expected, tmp_path):
    prepare_set(raw, tmp_path / "out", proteins_per_file=1024)
    fingerprints = [
        json.loads(data)["fingerprint"] for data in (expected[PREPARED_FILE], content(tmp_path / "out")[PREPARED_FILE])
    ]
    assert fingerprints[0] == fingerprints[1]
    changed = write_raw_set(tmp_path / "changed", NAMES, templates=("p1", "p2"), broken=("p4",))
    prepare_set(changed, tmp_path / "other")
    assert json.loads((tmp_path / "other" / PREPARED_FILE).read_bytes())["fingerprint"] != fingerprints[0]


def test_a_name_that_is_no_text(tmp_path, capfd):
    name = os.fsdecode(b"p\xff")
    raw, out = write_raw_set(tmp_path / "raw", [*NAMES, name, "größe"]), tmp_path / "out"
    prepare_set(raw, out)
    assert open_set(ProteinSetConfig(root=str(out))).ids == ["größe", *NAMES]
    assert json.loads((out / "report.json").read_bytes())["left_out"] == {
        "p\\xff": "has a name that is no UTF-8: rename it"
    }
    capfd.readouterr().out.encode()


def test_a_finished_directory_stays_as_it_is(raw, expected, tmp_path, capfd):
    out = tmp_path / "out"
    prepare_set(raw, out)
    capfd.readouterr()
    prepare_set(raw, out)
    assert capfd.readouterr().out == f"{out} is prepared already; to prepare it anew, delete it first.\n"
    assert content(out) == expected


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
        prepare_set(raw, out)
    files = sorted(file.name for file in out.iterdir())
    first = "proteins-00000-of-00004"
    assert files == [PREPARED_FILE, f"{first}.array_record", f"{first}.json"]  # whole files only
    assert "1 of 4 files are written; the same command makes the others." in capfd.readouterr().out
    (out / ".proteins-00001-of-00004.array_record.elsewhere-1.tmp").touch()  # of a job that was killed
    before = (out / f"{first}.array_record").stat().st_mtime_ns
    prepare_set(raw, out, workers=2)
    assert (out / f"{first}.array_record").stat().st_mtime_ns == before
    assert content(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_goes_on_after_the_end_of_its_process(tmp_path, user_environment, number):
    names = [f"p{number:03d}" for number in range(150)]
    raw = write_raw_set(tmp_path / "raw", names)
    prepare_set(raw, tmp_path / "whole" / "out")
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
    prepare_set(raw, out)
    assert content(out) == content(tmp_path / "whole" / "out")


def test_files_that_were_lost_are_made_again(raw, expected, tmp_path):
    out = tmp_path / "out"
    prepare_set(raw, out, shard="0/2")
    path = out / "proteins-00002-of-00004.array_record"
    path.write_bytes(path.read_bytes()[:100])
    (out / "proteins-00000-of-00004.array_record").unlink()
    prepare_set(raw, out)
    assert content(out) == expected


def test_no_accelerator_is_touched(user_environment):
    program = "import sys, evotrain.prepare.command; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env=user_environment, check=True)


@pytest.mark.slow
def test_an_experiment_is_the_same_from_raw_files_and_from_prepared_ones(repository, one_device, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(repository / "data" / "sample", raw)
    with gzip.open(raw / "sample1" / "msa.a3m.gz", "at") as file:
        file.write("!\n")  # one of its proteins cannot be read
    prepare_set(raw, out)
    for name, root in (("from_raw", raw), ("from_prepared", out)):
        tiny_run.train_tiny(tmp_path / name, "+experiment=real_small", f"data.root={root}", "steps=2", "batch_size=4")
    rows = tiny_run.rows(tmp_path / "from_raw")
    assert rows == tiny_run.rows(tmp_path / "from_prepared")
    assert sum(row.get("data/substituted", 0) for row in rows) > 0
