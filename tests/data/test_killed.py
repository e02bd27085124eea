"""A program that is killed at any batch and started again goes on as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killed_batches import digest

from evotrain.compose import compose
from evotrain.data.pipeline import stack
from evotrain.data.sources import open_source

BATCH_SIZE = 2
SCRIPT = Path(__file__).with_name("killed_batches.py")


@pytest.mark.slow
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.nightly)])
def test_batches_go_on_after_every_kill(repository, kills):
    """Killed at random batches, while two workers prepare those that follow."""
    sizes = ["data.crop=8", "data.msa_clusters=4", f"batch_size={BATCH_SIZE}", "data.workers=2", "mesh.data=1"]
    overrides = ["data=msa_dir", f"data.root={repository / 'data' / 'sample'}", *sizes]
    found: list[str] = []
    for count in np.random.default_rng(0).integers(1, 8, size=kills):
        found += until_killed(int(count), str(len(found) * BATCH_SIZE), *overrides)
    assert len(found) >= kills

    source = open_source(compose(overrides))
    for number, line in enumerate(found):
        rows = [source.train(number * BATCH_SIZE + row) for row in range(BATCH_SIZE)]
        assert digest(stack(rows)) == line, f"batch {number}"


def until_killed(count: int, *arguments: str) -> list[str]:
    """What the script prints until it is killed, no sooner than after `count` batches.

    Its workers hold the other end of the pipe too: that it is read to its end shows that they have died as well.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    ) as program:
        lines = [program.stdout.readline() for _ in range(count)]
        program.kill()
        lines += program.stdout.readlines()
    assert all(lines[:count])
    return [line.rstrip("\n") for line in lines if line.endswith("\n")]  # the last one may be torn
