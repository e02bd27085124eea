"""What a run answers to a mistake or a misfortune: one sentence, no traceback, and nothing half-written.

The errors of the command line itself are in test_cli.py, those of W&B in test_wandb_log.py.
"""

import errno
import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_run import TINY, rows, summary

from evotrain.cli import main
from evotrain.run_dir import RunDir


@pytest.fixture
def refused(one_device, tmp_path, monkeypatch, capfd):
    """Runs a command that must fail, and returns the sentence on stderr; the run directory is `run`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int) -> str:
        found = main([*TINY, "run_dir=run", *arguments])
        _, err = capfd.readouterr()
        assert found == code, err
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        return err

    return run


@pytest.fixture
def proteins(repository, tmp_path) -> Path:
    """A copy of the sample's six proteins, four to train on and two held out."""
    return shutil.copytree(repository / "data" / "sample", tmp_path / "proteins")


def spoil(proteins: Path, fault: str, names: list[str]) -> None:
    """Breaks the files of some proteins in one of the ways that files are found broken in."""
    index = proteins / "index.csv"
    for name in names:
        alignment, structure = proteins / name / "msa.a3m.gz", proteins / name / "structure.cif.gz"
        text = gzip.decompress(alignment.read_bytes()).decode()
        if fault == "no query":
            alignment.write_bytes(b"")
        elif fault == "unequal rows":
            alignment.write_bytes((text.rstrip() + "A\n").encode())
        elif fault == "no chain":
            index.write_text(index.read_text().replace(f"{name},A", f"{name},B"))
        elif fault == "another protein":
            other = "".join(reversed("ACDEFGHIKLMNPQRSTVWY")) * 3
            alignment.write_text(f">query\n{other}\n")
        else:
            structure.write_bytes(structure.read_bytes()[:100])


FAULTS = {
    "no query": "msa.a3m.gz: the file is empty; it needs at least the query",
    "unequal rows": "aligned columns, but the query has",
    "no chain": "structure.cif.gz: chain 'B' is not there; the protein chains are A.",
    "another protein": "the chain's sequence does not match the query of the alignment",
    "torn file": "structure.cif.gz: is damaged gzip",
}

# --- data ------------------------------------------------------------------------------------------------------------


def test_no_such_directory(refused):
    sentence = refused("data=msa_dir", "data.root=nowhere", code=1)
    assert sentence == f"error: data.root=nowhere: no such directory (it would be {Path.cwd() / 'nowhere'}).\n"
    assert os.listdir() == []


def test_an_empty_directory(refused):
    os.mkdir("proteins")
    assert "none of its 0 folders is a protein; each needs msa.a3m" in refused(
        "data=msa_dir", "data.root=proteins", code=1
    )
    assert os.listdir() == ["proteins"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_whose_proteins_are_all_broken(refused, proteins, fault, split):
    names = [f"sample{i}" for i in (range(4) if split == "train" else (4, 5))]
    spoil(proteins, fault, names)
    sentence = refused("data=msa_dir", "data.root=proteins", code=1)
    assert f"none of the {len(names)} proteins of the split can be read; {names[0]}: " in sentence
    assert FAULTS[fault] in sentence
    assert os.listdir() == ["proteins"]


def test_broken_proteins_are_replaced_named_once_and_counted(one_device, proteins, tmp_path, capfd):
    spoil(proteins, "unequal rows", ["sample1"])
    spoil(proteins, "torn file", ["sample4"])
    run = [*TINY, "data=msa_dir", f"data.root={proteins}", "data.workers=0", f"run_dir={tmp_path / 'run'}"]
    assert main(run) == 0, capfd.readouterr()
    out, err = capfd.readouterr()
    assert err == ""
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert warnings[0].startswith("warning: a broken example was replaced: sample4: ")
    assert FAULTS["torn file"] in warnings[0]
    assert warnings[1].startswith("warning: a broken example was replaced: sample1: ")
    train, held_out = ([row for row in rows(tmp_path / "run") if row["split"] == split] for split in SPLITS)
    # In three epochs of four proteins the broken one comes three times.
    assert sum(row["data/substituted"] for row in train) == sum(row["data/skipped"] for row in train) == 3
    assert {row["data/substituted"] for row in held_out} == {1}


SPLITS = ("train", "eval/held_out")

# --- mesh, and what a run may start from -----------------------------------------------------------------------------


def test_a_mesh_that_does_not_fit_the_devices(refused):
    sentence = refused("mesh.data=3", code=2)
    assert "mesh.data=3 mesh.fsdp=1 mesh.context=1 needs 3 devices, but there is 1: change the mesh" in sentence
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("resume=must", "resume=must, but run holds no checkpoint: write resume=auto, or another run_dir=…."),
        ("init_from=nowhere", "nowhere is not the directory of a run with checkpoints: name one, as in runs/"),
    ],
)
def test_a_beginning_that_is_not_there(refused, override, sentence):
    assert sentence in refused(override, code=2)
    assert os.listdir() == []


def test_init_from_another_model(refused, finished_run):
    sentence = refused(f"init_from={finished_run}", "model.c_triangle=8", code=1)
    assert f"{finished_run / 'checkpoints' / '6'} holds another model: " in sentence
    assert os.listdir() == []


def test_no_checkpoint_may_be_continued(refused, finished_run):
    shutil.copytree(finished_run, "run")
    before = contents(Path("run"))
    sentence = refused("resume=never", code=2)
    assert "resume=never, but run holds a checkpoint of step 6: write another name=…." in sentence
    assert contents(Path("run")) == before


def contents(directory: Path) -> dict[str, bytes]:
    """All files of a run that say something about it."""
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path): path.read_bytes() for path in paths}


# --- a directory that is taken ---------------------------------------------------------------------------------------


def test_a_directory_that_holds_another_run(refused, finished_run):
    shutil.copytree(finished_run, "run")
    before = contents(Path("run"))
    sentence = refused("seed=3", "optimizer.lr=0.5", "steps=9", code=1)
    assert sentence == (
        "error: run holds a run with seed=0 (now 3), optimizer.lr=0.003 (now 0.5): choose another name=…, or continue "
        "it all the same with resume_allow=[seed,optimizer.lr].\n"
    )
    assert contents(Path("run")) == before


def test_a_default_directory_that_holds_another_run(refused, finished_run):
    shutil.copytree(finished_run, "runs/tiny")
    assert "runs/tiny holds a run with seed=0 (now 3): choose another name=…" in refused(
        "run_dir=runs/${name}", "seed=3", code=1
    )


def test_differences_that_are_allowed(one_device, finished_run, tmp_path, capfd):
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    allowed = ["data.coupling=1", "resume_allow=[data.coupling]", "steps=7"]
    assert main([*TINY, f"run_dir={run_dir}", *allowed]) == 0, capfd.readouterr()
    assert rows(run_dir)[-1]["step"] == 7


def test_a_checkpoint_of_another_model(refused, finished_run):
    shutil.copytree(finished_run, "run")
    before = contents(Path("run"))
    sentence = refused("model.c_triangle=8", "resume_allow=[model.c_triangle]", "steps=7", code=1)
    assert "run/checkpoints/6 holds another model: " in sentence
    assert "use the configuration it was written with, or start a run under another name=…" in sentence
    assert contents(Path("run")) == before


def test_a_directory_in_use(refused, finished_run):
    shutil.copytree(finished_run, "run")
    with RunDir.open("run"):
        sentence = refused("steps=7", code=1)
    assert f"error: run is in use by process {os.getpid()} on host " in sentence
    assert sentence.endswith("; wait for it to end, or choose another name=…\n")


# --- the disk --------------------------------------------------------------------------------------------------------


def test_a_disk_without_room_for_the_checkpoints(refused, monkeypatch):
    usage = shutil._ntuple_diskusage(2**40, 2**40, 2**10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    sentence = refused(code=1)
    assert "error: needs about 0.0 GiB more for checkpoints, 0.0 GiB are free at run: free some, or lower" in sentence
    assert os.listdir() == []


def test_a_disk_that_fills_up_during_the_run_and_has_room_again(refused, monkeypatch, finished_run, capfd):
    write = os.write

    def write_until_full(descriptor: int, line: bytes) -> int:
        if json.loads(bytes(line))["step"] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, line)

    with monkeypatch.context() as full:
        full.setattr("evotrain.logging.os.write", write_until_full)
        sentence = refused(code=1)
    assert sentence == (
        "error: cannot write run/metrics.jsonl: the disk is full: free some space and start the same command again, it "
        "continues by itself\n"
    )
    assert summary(Path("run"))["status"] == "failed"
    assert main([*TINY, "run_dir=run"]) == 0, capfd.readouterr()
    assert rows(Path("run")) == rows(finished_run)


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_of_what_is_no_run(one_device, finished_run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    assert main(["command=evaluate", "run_dir=empty"]) == 2
    assert capfd.readouterr().err == (
        "error: There is no empty/config.yaml: name the directory of a run that has started.\n"
    )
    assert os.listdir("empty") == []

    shutil.copytree(finished_run, "started", ignore=shutil.ignore_patterns("[0-9]*"))
    assert main(["command=evaluate", "run_dir=started"]) == 1
    assert "error: started/checkpoints holds no checkpoint yet: wait for the run's first, " in capfd.readouterr().err

    assert main(["command=evaluate", f"run_dir={finished_run}", "evaluate.checkpoint=77"]) == 1
    assert f"error: {finished_run}/checkpoints has no checkpoint of step 77: it has " in capfd.readouterr().err
