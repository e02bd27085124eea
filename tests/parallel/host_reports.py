"""One of several processes that report to process 0, which prints what it has received: `python host_reports.py`."""

import json

import jax

from evotrain.parallel import distributed
from evotrain.parallel.reports import Reports


def main() -> None:
    distributed.start()
    reports, process = Reports(), jax.process_index()
    for _ in range(2):
        reports.send([f"process {process} has a torn file", "the same everywhere"])
    reports.largest({"time/data_wait": float(process), "time/example": -float(process)})
    distributed.barrier("sent", 100)
    first, second = sorted(reports.received()), reports.received()
    if process == 0:
        largest = reports.largest({"time/data_wait": 0.5, "time/example": 0.0})
        print(json.dumps([first, second, largest]))
    distributed.barrier("received", 100)


if __name__ == "__main__":
    main()
