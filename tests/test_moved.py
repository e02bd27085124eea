"""A run that is moved to other devices, another mesh or other processes goes on with the numbers of one that is not."""

import shutil
from pathlib import Path

import pytest
from several_processes import run_together
from tiny_run import TINY, remembering, rows, saved_state, train_tiny

from evotrain import step, train
from evotrain.errors import RunError

BEFORE, AFTER = 2, 20  # steps before the first move, and on each mesh after it
SIZES = ["batch_size=8", "eval_every=0", "checkpoint.every=1000"]  # a checkpoint at the end alone
MESHES = [
    ["mesh.data=1", "mesh.fsdp=8"],
    ["mesh.data=2", "mesh.context=4"],
    ["mesh.data=1", "mesh.fsdp=8"],
]  # one after the other, of eight devices

PROGRAMS: dict = {}  # jitted steps that these tests have made

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """The directory of a run that one device has begun."""
    return train_on(1, tmp_path_factory.mktemp("begun") / "run", BEFORE)


@pytest.fixture(scope="module")
def unmoved(begun, tmp_path_factory) -> Path:
    """The same run, finished there."""
    run_dir = shutil.copytree(begun, tmp_path_factory.mktemp("unmoved") / "run")
    return train_on(1, run_dir, BEFORE + AFTER * len(MESHES))


def train_on(devices: int, run_dir: Path, steps: int, *mesh: str) -> Path:
    """Trains on some of the simulated devices; a step on the same mesh is traced once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("jax.device_count", lambda: devices)
        for name in ("train_step", "eval_step"):
            monkeypatch.setattr(train, name, remembering(getattr(step, name), PROGRAMS))
        train_tiny(run_dir, *SIZES, *mesh, f"steps={steps}")
    return run_dir


def assert_same_losses(run_dir: Path, expected_dir: Path, first: int, last: int) -> None:
    found_rows, expected_rows = (
        [row for row in rows(directory) if row["split"] == "train"][first:last] for directory in (run_dir, expected_dir)
    )
    pairs = zip(found_rows, expected_rows, strict=True)
    for number, (found, expected) in enumerate(pairs, start=first + 1):
        assert (found["step"], expected["step"]) == (number, number)
        for name in ("loss", "loss/masked_msa", "loss/distogram", "grad_norm"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), f"{name} of step {number}"


@pytest.mark.parametrize("meshes", [MESHES[:2], pytest.param(MESHES, marks=pytest.mark.nightly)], ids=len)
def test_from_mesh_to_mesh(begun, unmoved, tmp_path, capsys, meshes):
    """1 device → 8, which share parameters → 2 × 4, four of which share an example → parameters shared again."""
    run_dir = shutil.copytree(begun, tmp_path / "run")
    first = BEFORE
    for mesh in meshes:
        train_on(8, run_dir, first + AFTER, *mesh)
        assert f"continues from step {first}" in capsys.readouterr().out
        assert_same_losses(run_dir, unmoved, first, first + AFTER)
        first += AFTER
    # It has moved, and learned.
    assert len(saved_state(run_dir).params) == len(saved_state(unmoved).params)
    assert rows(run_dir)[-1]["loss"] < rows(run_dir)[0]["loss"]


@pytest.mark.nightly
def test_from_one_process_to_two(begun, unmoved, tmp_path):
    run_dir = shutil.copytree(begun, tmp_path / "run")
    steps = BEFORE + AFTER
    overrides = [*TINY, *SIZES, f"steps={steps}", f"run_dir={run_dir}", "mesh.data=2", "mesh.context=2"]
    script = Path(__file__).with_name("training_host.py")
    output, _ = run_together(script, 2, lambda _: [str(tmp_path), *overrides])
    assert f"continues from step {BEFORE}" in output
    assert_same_losses(run_dir, unmoved, BEFORE, steps)
    # And back: what two processes have written, one reads.
    train_on(1, run_dir, steps + 1)
    assert_same_losses(run_dir, unmoved, steps, steps + 1)


def test_what_decides_the_numbers_does_not_move(begun):
    """The mesh may change without being allowed; the batch, say, may not."""
    with pytest.raises(RunError, match=r"holds a run with batch_size=8 \(now 16\).*resume_allow=\[batch_size\]"):
        train_on(8, begun, 3, "batch_size=16", "mesh.data=1", "mesh.fsdp=8")
