"""One of several processes that train: `python training_host.py FOLDER key=value …`.

Writes the index of each training example that it reads to FOLDER/<process>.txt. A process that dies is noticed sooner
than in a run that matters.
"""

import os
import sys
from pathlib import Path

from evotrain import cli
from evotrain.data.sources import Example, FamilySource
from evotrain.parallel import watch

plain = FamilySource.train
folder, *overrides = sys.argv[1:]
notes = Path(folder, f"{os.environ['EVOTRAIN_PROCESS']}.txt")


def train(source: FamilySource, index: int) -> Example:
    with notes.open("a") as file:
        file.write(f"{index}\n")
    return plain(source, index)


if __name__ == "__main__":
    watch.SILENT_SECONDS, watch.SUSPECT_SECONDS = 12.0, 6.0
    watch.BEAT_SECONDS, watch.POLL_SECONDS, watch.GRACE_SECONDS = 0.5, 0.2, 2.0
    FamilySource.train = train
    sys.exit(cli.main(overrides))
