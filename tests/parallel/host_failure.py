"""One of several processes that train, of which the last cannot go on: `python host_failure.py key=value …`."""

import sys

from evotrain import cli
from evotrain.data.sources import Example, FamilySource
from evotrain.errors import DataError
from evotrain.parallel import distributed

BROKEN = 8  # the example that cannot be read

plain = FamilySource.train


def train(source: FamilySource, index: int) -> Example:
    if index >= BROKEN and not distributed.is_primary():
        raise DataError(f"{source.name(index)}: its disk is gone.")
    return plain(source, index)


if __name__ == "__main__":
    FamilySource.train = train
    sys.exit(cli.main(sys.argv[1:]))
