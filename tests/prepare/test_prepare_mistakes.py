"""A user's mistake and a full disk are one sentence, and what was written before stays."""

import json
import os
from pathlib import Path

import pytest
from made_sets import write_raw_set
from small_jobs import NAMES, content, prepare_set

import evotrain.prepare.command
from evotrain.data.sets.protein_set import PREPARED_FILE, open_set
from evotrain.data.sets.raw import RawSet
from evotrain.data_config import ProteinSetConfig
from evotrain.errors import ConfigError, DataError, RunError


def _sentence(error, *arguments, **options):
    with pytest.raises(error) as caught:
        prepare_set(*arguments, **options)
    return str(caught.value)


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
    prepare_set(raw, out)
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
    prepare_set(raw, out, shard="0/2")
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
    prepare_set(raw, out, shard="0/2")
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
    prepare_set(raw, out, shard="0/2")
    alignment = raw / "p5" / "msa.a3m"
    alignment.write_text(alignment.read_text() + ">more\n" + alignment.read_text().splitlines()[1] + "\n")
    note = out / "proteins-00002-of-00004.json"
    assert _sentence(DataError, raw, out) == (
        f"{raw}: files of p4 to p5 have changed since proteins-00002-of-00004.array_record was made of them: delete "
        f"{note} and start again."
    )
    note.unlink()
    prepare_set(raw, out)
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
    prepare_set(raw, out)
    assert content(out) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written(raw, tmp_path):
    tmp_path.chmod(0o500)
    assert "choose a prepare.out=… that you may write to" in _sentence(RunError, raw, tmp_path / "out")


def test_a_path_that_is_a_file(raw, tmp_path):
    (tmp_path / "file").touch()
    assert "choose another prepare.out=…" in _sentence(RunError, raw, tmp_path / "file" / "out")
