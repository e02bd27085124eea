"""One, two and four real processes deliver the same global batches."""

import hashlib
import json
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


@pytest.mark.parametrize("mesh", [["mesh.data=4"], ["mesh.data=2", "mesh.context=2"]], ids=" ".join)
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
