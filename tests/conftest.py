"""What every test runs under: sixteen simulated CPU devices, and no silent broadcasting between ranks."""

import os
import tempfile
from pathlib import Path

# Before jax is imported. A program that a test starts inherits them, unless it is started with `user_environment`.
SIMULATED_DEVICES = "--xla_force_host_platform_device_count=16"
# Programs that run a few times: the machine code need not be the best. The HLO has the same operations.
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_TO_COMPILE} {SIMULATED_DEVICES}".strip()
# What one test has compiled, another test or a program that it starts need not compile again. The bits stay the same.
if "PYTEST_XDIST_WORKER" not in os.environ:  # the processes that pytest -n starts share it
    COMPILED = tempfile.TemporaryDirectory(prefix="evotrain-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest
import tiny_run

from evotrain import evaluate, step, train

REPOSITORY = Path(__file__).resolve().parent.parent

PROGRAMS: dict = {}  # jitted steps that tests have made

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Real proteins beside the checkout, one directory each; a user's machine does not have them."""
    root = REPOSITORY.parent / "shared" / "realdata" / "public"
    if not root.is_dir():
        pytest.skip(f"no real proteins at {root}")
    return root


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test use the first of the simulated devices, and trace a program that an earlier test has traced no
    more. (What a restarted process does anew, tests of whole programs show.)"""
    use_one_device(monkeypatch)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny run that has ended well; a test that changes it works on a copy."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_one_device(monkeypatch)
        tiny_run.train_tiny(run_dir)
    return run_dir


def use_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for module, name in ((train, "train_step"), (train, "eval_step"), (evaluate, "eval_step")):
        monkeypatch.setattr(module, name, tiny_run.remembering(getattr(step, name), PROGRAMS))


@pytest.fixture
def user_environment() -> dict[str, str]:
    """The environment of a program started from a user's shell: one CPU device, this checkout importable."""
    environment = dict(os.environ)
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace(SIMULATED_DEVICES, "").strip()
    paths = [str(REPOSITORY), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment
