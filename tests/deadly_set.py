"""A set whose reading ends its process. By itself, since processes that are started import it."""

import os
import signal

from evotrain.data.sets.raw import RawSet
from evotrain.data_config import ProteinSetConfig


class DeadlySet(RawSet):
    """Kills its process at p1, for the first time or always, and has a fault at p2."""

    def __init__(self, root, marker, *, always=False):
        super().__init__(ProteinSetConfig(root=str(root)))
        self._marker, self._always = marker, always

    def read(self, name):
        if name == "p1" and (self._always or not self._marker.exists()):
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "p2":
            raise ValueError("a fault of ours")
        return super().read(name)
