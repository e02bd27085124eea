"""A run that its machine has no memory for is refused before it begins."""

from pathlib import Path

import pytest
from tiny_run import tiny_config, train_tiny

from evotrain import host_memory
from evotrain.data.pipeline import batch_shapes
from evotrain.data.sources import open_source
from evotrain.errors import ConfigError
from evotrain.host_memory import check_host_memory
from evotrain.parallel.mesh import make_mesh
from evotrain.plan.footprint import memory_of


def test_what_waits_and_what_the_step_takes_must_fit(one_device, monkeypatch: pytest.MonkeyPatch):
    config = tiny_config("unused", "data.prefetch=3", "mesh.data=1", "mesh.remat=block")
    mesh = make_mesh(config.mesh)
    batch = batch_shapes(open_source(config), config, mesh)
    needed = 4 * sum(x.size * x.dtype.itemsize for x in batch.values()) + memory_of(config, 0.0).total
    monkeypatch.setattr(host_memory, "total_memory", lambda: 1.001 * needed)
    check_host_memory(config, batch, mesh)
    monkeypatch.setattr(host_memory, "total_memory", lambda: 0.999 * needed)
    with pytest.raises(
        ConfigError, match=r"data.prefetch=3 batches of .* GiB wait .* the step takes .* lower data.prefetch"
    ):
        check_host_memory(config, batch, mesh)


def test_a_run_that_does_not_fit_leaves_nothing(one_device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_memory, "total_memory", lambda: 1000.0)
    with pytest.raises(ConfigError, match="the run needs more than this machine's"):
        train_tiny(tmp_path / "run")
    assert not (tmp_path / "run").exists()
