"""One, two and four real processes deliver the same global batches, of data that are the same for all."""

import hashlib
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from host_batches import START, STEPS
from several_processes import run_together

from evotrain.compose import compose
from evotrain.data.sources import HOST_KEYS, open_source

pytestmark = pytest.mark.slow

BATCH_SIZE = 4
SIZES = ["data.crop=8", "data.msa_clusters=4", f"batch_size={BATCH_SIZE}"]
SCRIPT = Path(__file__).with_name("host_batches.py")


@pytest.mark.parametrize(
    "mesh", [["mesh.data=4"], ["mesh.data=2", "mesh.context=2"], ["mesh.data=1", "mesh.context=4"]], ids=" ".join
)
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_same_global_batches_on_any_number_of_hosts(repository, tmp_path, processes, mesh):
    """Each example byte for byte as it is defined; hosts that hold the same row of a batch have read the same."""
    overrides = ["data=msa_dir", f"data.root={repository / 'data' / 'sample'}", *SIZES, *mesh]
    files = [tmp_path / str(process) for process in range(processes)]
    run_together(SCRIPT, processes, lambda process: [str(files[process]), *overrides])

    batches: list[dict[str, str]] = [{} for _ in range(STEPS)]
    for file in files:
        for whole, line in zip(batches, file.read_text().splitlines(), strict=True):
            for row, digest in json.loads(line).items():
                assert whole.setdefault(row, digest) == digest

    source = open_source(compose(overrides))
    for step, found in enumerate(batches):
        expected = {}
        for row in range(BATCH_SIZE):
            example = source.train(START + step * BATCH_SIZE + row)
            digests = {name: hashlib.sha256(np.asarray(x).tobytes()).hexdigest() for name, x in example.items()}
            expected |= {f"{name} {row}": digest for name, digest in digests.items() if name not in HOST_KEYS}
        assert found == expected


@pytest.mark.parametrize("fault", ["a protein is missing", "no such directory", "more examples held out"])
def test_hosts_that_see_other_data(repository, tmp_path, fault):
    """Every process says so, before anything is written."""
    roots = [shutil.copytree(repository / "data" / "sample", tmp_path / str(process)) for process in range(2)]
    host, more = socket.gethostname(), []
    here = f"process 1, on {host}"
    match fault:
        case "a protein is missing":
            shutil.rmtree(roots[1] / "sample2")
            sentences = [
                f"DataError: {here}, sees other data than process 0, on {host} (data.root: other proteins, another "
                "split or other weights): give every host the same files."
            ] * 2
        case "no such directory":
            shutil.rmtree(roots[1])
            reason = f"data.root={roots[1]}: no such directory (it would be {roots[1]})."
            sentences = [f"RunError: {here}: {reason}", f"DataError: {reason}"]
        case "more examples held out":
            more = ["data.eval_examples=1"]
            sentences = [
                f"DataError: the held-out examples are 1 for {here}, and 2 for process 0, on {host}: give every host "
                "the same files and the same command."
            ] * 2
    overrides = ["data=msa_dir", *SIZES, "checkpoint.best=loss", f"run_dir={tmp_path / 'run'}", "mesh.data=4"]
    script = SCRIPT.with_name("differing_hosts.py")
    found = run_together(
        script, 2, lambda process: [*overrides, f"data.root={roots[process]}", *(more if process else [])]
    )
    assert [output.splitlines()[-1] for output in found] == sentences  # after what Gloo may say
    assert not (tmp_path / "run").exists()
