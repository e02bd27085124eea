"""Where devices stand in the mesh: whole replicas in a TPU slice, an axis on neighbouring devices."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from evotrain.config import MeshConfig
from evotrain.errors import ConfigError
from evotrain.parallel.mesh import _arrange, make_mesh

PATIENCE = 200  # seconds that a started program may take at most; nothing here measures time


@dataclass(frozen=True)
class Device:
    """As much of a device as decides on its place."""

    id: int
    slice_index: int
    coords: tuple[int, int, int] = (0, 0, 0)
    platform: str = "tpu"
    device_kind: str = "TPU v5p"
    core_on_chip: int = 0
    process_index: int = 0


def torus(slices: int, side: int) -> list[Device]:
    places = [(x, y, z) for z in range(side) for y in range(side) for x in range(side)]
    return [Device(100 * s + i, s, place) for s in range(slices) for i, place in enumerate(places)]


def test_replicas_stand_in_one_slice():
    found = _arrange(torus(slices=2, side=2), (4, 2, 2))
    assert found.shape == (4, 2, 2)
    assert [[device.slice_index for device in replica.flat] for replica in found] == [
        [0] * 4,
        [0] * 4,
        [1] * 4,
        [1] * 4,
    ]


@pytest.mark.parametrize("sizes", [(1, 4, 4), (3, 1, 2)], ids=str)
def test_a_replica_that_would_span_slices_is_refused(sizes):
    slices = 3 if sizes[0] == 1 else 2
    sentence = (
        f"mesh.data={sizes[0]} cannot be split over {slices} TPU slices, .* write mesh.data={slices}, or a multiple"
    )
    with pytest.raises(ConfigError, match=sentence):
        _arrange(torus(slices, 2), sizes)


def test_an_axis_may_take_a_part_of_a_side_of_the_torus():
    """Eight devices are no side, and no product of sides, of a torus of 4 × 4 × 4."""
    found = _arrange(torus(slices=1, side=4), (8, 1, 8))
    for replica in found:
        x, y, z = np.array([device.coords for device in replica.flat]).T
        assert sorted(np.ptp(side) + 1 for side in (x, y, z)) in ([1, 2, 4], [2, 2, 2])


def test_gpus_stand_host_by_host_and_an_axis_may_span_them():
    """JAX says that each host of GPUs is a slice, and may list its processes in another order than their devices."""
    gpus = [Device(i, slice_index=i // 2, platform="gpu", device_kind="H100") for i in (2, 3, 0, 1)]
    assert [device.id for device in _arrange(gpus, (1, 1, 4)).flat] == [0, 1, 2, 3]


def test_simulated_devices_in_their_order():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    assert mesh.shape == {"data": 2, "fsdp": 2, "context": 2}
    assert [device.id for device in mesh.devices.flat] == list(range(8))


def test_only_the_data_axis_leaves_a_slice(tmp_path):
    """Compiled for two slices of eight: sums over fsdp and context are the slice's own, that over data is sent."""
    pytest.importorskip("libtpu")
    script = Path(__file__).with_name("two_slices.py")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    slices, text = json.loads(result.stdout.splitlines()[-1])
    assert slices == [0, 1]
    assert len(re.findall(r" all-reduce\(", text)) == 2
    assert len(re.findall(r"_xla_megascale_transfer_type=\"ALL_REDUCE\"", text)) == 2  # a send and a receive
