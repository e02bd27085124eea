"""Prints the digest of each batch from example START on: `python killed_batches.py START key=value …`."""

import hashlib
import sys
from collections.abc import Mapping

import numpy as np

from evotrain.compose import compose
from evotrain.data.pipeline import Batches
from evotrain.data.sources import HOST_KEYS, open_source
from evotrain.parallel.mesh import make_mesh


def digest(batch: Mapping[str, np.ndarray]) -> str:
    """Of every byte that goes to the devices."""
    found = hashlib.sha256()
    for name in sorted(batch.keys() - set(HOST_KEYS)):
        found.update(name.encode() + np.asarray(batch[name]).tobytes())
    return found.hexdigest()


def main(start: str, *overrides: str) -> None:
    config = compose(list(overrides))
    with Batches(open_source(config), config, make_mesh(config.mesh), start=int(start)) as stream:
        for batch, _ in stream:
            print(digest(batch), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
