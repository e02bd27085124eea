"""One of several processes that look for their devices, of which the last has one more: `python host_devices.py`."""

import os
import sys

if os.environ["EVOTRAIN_PROCESS"] == "1":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=3"

from evotrain.errors import RunError
from evotrain.parallel import devices, distributed

if __name__ == "__main__":
    distributed.start()
    try:
        devices.find(seconds=100)
    except RunError as error:
        print(error)
        distributed.barrier("said", 100)
        sys.exit()
