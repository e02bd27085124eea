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

from evotrain.data.sets.protein_set import ProteinSet, open_set
from evotrain.data_config import ProteinSetConfig

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
    monkeypatch.setattr(make_sample, "SAMPLE", tmp_path / "data" / "sample")
    make_sample.main()
    old, new = sample_sets(kept)[0], sample_sets(tmp_path / "data" / "sample")[0]
    assert old.ids == new.ids == [f"sample{i}" for i in range(6)]
    assert old.index == new.index
    assert [old.index[name]["split"] for name in old.ids] == ["train"] * 4 + ["val"] * 2
    for name in old.ids:
        remedy = "the generator has changed: run python data/make_sample.py and commit data/"
        assert np.array_equal(old.read(name).msa, new.read(name).msa), remedy
        # Written with three decimals, which another processor may round the other way.
        np.testing.assert_allclose(
            old.read(name).atom_positions, new.read(name).atom_positions, atol=2e-3, err_msg=remedy
        )


def test_the_prepared_sample_is_the_sample(repository: Path) -> None:
    raw, prepared = sample_sets(repository / "data" / "sample")
    assert prepared.ids == raw.ids
    assert {name: prepared.index[name] for name in raw.ids} == raw.index
    for name in raw.ids:
        for key, value in vars(raw.read(name)).items():
            np.testing.assert_array_equal(getattr(prepared.read(name), key), value, err_msg=f"{name} {key}")


def sample_sets(raw: Path) -> list[ProteinSet]:
    """The sample as it is in its raw files, and as it is prepared."""
    return [open_set(ProteinSetConfig(root=str(root))) for root in (raw, raw.with_name("sample_prepared"))]
