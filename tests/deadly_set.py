"""A set whose reading ends its process. By itself, since processes that are started import it."""

import os
import signal
import threading

from evotrain.data.sets.raw import RawSet
from evotrain.data_config import ProteinSetConfig


class DeadlySet(RawSet):
    """Kills its process at p1, for the first time or always, has a fault at p2, and does not come back from p6."""

    def __init__(self, root, marker, *, always=False):
        super().__init__(ProteinSetConfig(root=str(root)))
        self._marker, self._always = marker, always

    def read(self, name):
        if name == "p1" and (self._always or not self._marker.exists()):
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "p2":
            raise ValueError("a fault of ours")
        if name == "p6":
            threading.Event().wait()
        return super().read(name)
