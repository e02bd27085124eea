"""One of several processes that read batches together: `python host_batches.py FILE key=value …`.

Writes the digest of each row of each batch that this process's devices hold, to FILE as JSON lines.
"""

import hashlib
import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from evotrain.compose import compose
from evotrain.data.pipeline import Batches
from evotrain.data.sources import open_source
from evotrain.parallel import distributed
from evotrain.parallel.mesh import make_mesh

STEPS = 3
START = 5


def digests(stream: Batches) -> list[dict[str, str]]:
    """Of each batch the digests of the local rows by "<feature> <row>"; devices that hold the same row must agree."""
    batches = []
    for batch, _ in islice(stream, STEPS):
        found: dict[str, str] = {}
        for name, x in batch.items():
            for shard in x.addressable_shards:
                rows = range(len(x))[shard.index[0]]
                for row, values in zip(rows, np.asarray(shard.data), strict=True):
                    digest = hashlib.sha256(values.tobytes()).hexdigest()
                    assert found.setdefault(f"{name} {row}", digest) == digest
        batches.append(found)
    return batches


def main(path: str, *overrides: str) -> None:
    distributed.start()
    config = compose(list(overrides))
    with Batches(open_source(config), config, make_mesh(config.mesh), start=START) as stream:
        Path(path).write_text("".join(json.dumps(rows) + "\n" for rows in digests(stream)))
    distributed.barrier("read", 100)


if __name__ == "__main__":
    main(*sys.argv[1:])
