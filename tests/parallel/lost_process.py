"""One of several processes, of which one is lost while the others wait: `python lost_process.py VICTIM FATE`.

FATE is `killed`, `stopped` (it lives, and says nothing more) or `failed` (it ends with an error of its own).
"""

import os
import signal
import sys
import time

from evotrain.parallel import distributed, watch

PATIENCE = 200  # seconds; nothing here measures time


def main(victim: int, fate: str) -> None:
    watch.SILENT_SECONDS, watch.BEAT_SECONDS, watch.POLL_SECONDS, watch.GRACE_SECONDS = 6.0, 0.2, 0.1, 1.0
    distributed.start()
    distributed.barrier("all are watched", PATIENCE)
    if distributed._state().process_id == victim:
        match fate:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "failed":
                distributed.leave(3, "the disk is full: free space")
    time.sleep(PATIENCE)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
