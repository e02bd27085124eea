"""The wheel, the continuous-integration script and the sample: what a user receives beside the code."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evotrain.data.sets.raw import MsaDir
from evotrain.data_config import MsaDirConfig

PATIENCE = 300  # seconds that a started program may take at most; nothing here measures time


@pytest.fixture(scope="session")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel: what pip puts into site-packages, without a network."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, the build backend, is not installed")
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("evotrain", "conf"):
        shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel"], cwd=source, check=True, capture_output=True
    )
    [wheel] = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.mark.slow
def test_the_wheel_holds_package_and_configuration(repository: Path, installed: Path) -> None:
    def files(root: Path) -> set[str]:
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.suffix in (".py", ".yaml", ".txt")}

    assert files(installed / "evotrain") - {f"conf/{name}" for name in files(repository / "conf")} == files(
        repository / "evotrain"
    )
    assert files(installed / "evotrain" / "conf") == files(repository / "conf")
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"evotrain"}
    assert list(installed.glob("*.dist-info/licenses/LICENSE"))


@pytest.mark.slow
def test_an_installed_wheel_works_from_any_directory(installed: Path, tmp_path: Path, user_environment) -> None:
    environment = {**user_environment, "PYTHONPATH": str(installed)}
    program = "import evotrain, evotrain.compose as compose; print(evotrain.__file__, compose.conf_dir(), sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.stdout.splitlines() == [
        str(installed / "evotrain" / "__init__.py"),
        str(installed / "evotrain" / "conf"),
    ], result.stderr

    result = subprocess.run(
        [sys.executable, "-m", "evotrain", "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    assert "quickstart" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def ci(repository: Path, tmp_path: Path):
    """Runs a copy of .ci/run beside a README of the test, with a stub in the place of each Python."""

    def run(readme: str) -> subprocess.CompletedProcess:
        (tmp_path / ".ci").mkdir()
        shutil.copy(repository / ".ci" / "run", tmp_path / ".ci" / "run")
        (tmp_path / "README.md").write_text(readme)
        programs = tmp_path / "bin"
        programs.mkdir()
        # `-c` is the question whether it works, `-m venv` the order to make an environment.
        python = '[[ $1 == -c ]] && exit; mkdir -p "$3/bin"; cp "$(dirname "$0")/ruff" "$3/bin"'
        for name, text in {"python3.11": python, "python3.13": python, "ruff": 'echo "ruff $*"'}.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        for name in ("pip", "pytest"):
            (programs / name).write_text(f'#!/bin/bash\necho "{name} $*"\n')
            (programs / name).chmod(0o755)
        environment = {**os.environ, "PATH": f"{programs}:/usr/bin:/bin", "PYENV_ROOT": str(tmp_path)}
        return subprocess.run(
            ["bash", str(tmp_path / ".ci" / "run")], env=environment, capture_output=True, text=True, timeout=PATIENCE
        )

    return run


def test_ci_runs_the_command_of_the_readme(ci) -> None:
    fence = "```"
    result = ci(
        f"# x\n{fence}bash\npip install .\n{fence}\n<!-- command: test -->\n{fence}bash\n"
        f'pip install -e ".[test]" && pytest -m "not nightly"\n{fence}\nand\n{fence}\nrm\n{fence}\n'
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line and not line.startswith("===")]
    assert lines == [
        "pip install -e .[test]",
        "pytest -m not nightly",
        "ruff check .",
        "ruff format --check .",
        "pip install -e .[test]",
        "pytest -m  tests/test_conf_files.py tests/test_smoke.py",
    ]


def test_ci_refuses_a_readme_without_the_command(ci) -> None:
    result = ci("<!-- command: test -->\n\nSee the manual.\n```bash\npytest\n```\n")
    assert result.returncode == 1
    assert "README.md has no fenced command after the line <!-- command: test -->" in result.stderr


def test_ci_runs_in_this_checkout(repository: Path) -> None:
    assert (repository / "README.md").read_text().count("<!-- command: test -->\n```") == 1
    assert os.access(repository / ".ci" / "run", os.X_OK)


def test_the_sample_is_what_its_script_makes(repository: Path, tmp_path: Path, monkeypatch) -> None:
    specification = importlib.util.spec_from_file_location("make_sample", repository / "data" / "make_sample.py")
    make_sample = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(make_sample)
    kept = make_sample.SAMPLE
    monkeypatch.setattr(make_sample, "SAMPLE", tmp_path)
    make_sample.main()
    sources = [MsaDir(MsaDirConfig(crop=48, msa_clusters=32, root=str(root))) for root in (kept, tmp_path)]
    assert sources[0].train_ids == sources[1].train_ids == ["sample0", "sample1", "sample2", "sample3"]
    assert sources[0].held_out_ids == sources[1].held_out_ids == ["sample4", "sample5"]
    for name in sources[0].train_ids + sources[0].held_out_ids:
        old, new = (source.read(name) for source in sources)
        remedy = "the generator has changed: run python data/make_sample.py and commit data/sample"
        assert np.array_equal(old.msa, new.msa), remedy
        # Written with three decimals, which another processor may round the other way.
        np.testing.assert_allclose(old.atom_positions, new.atom_positions, atol=2e-3, err_msg=remedy)
