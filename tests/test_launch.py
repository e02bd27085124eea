"""The launchers, with stubs in place of evotrain and of SLURM's programs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from evotrain.compose import register_schema

PATIENCE = 60  # seconds that a started program may take at most; nothing here measures time


@pytest.fixture
def stub(tmp_path: Path):
    """Puts a program in the place of `python -m evotrain`, in the working directory."""

    def write(program: str) -> Path:
        package = tmp_path / "evotrain"
        package.mkdir()
        (package / "__init__.py").touch()  # so that it comes before an installed evotrain
        (package / "__main__.py").write_text(program)
        return tmp_path

    return write


def run_local(repository: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(repository / "launch" / "local.py"), *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


REPORT = """
import json, os, sys
names = ("EVOTRAIN_COORDINATOR", "EVOTRAIN_PROCESSES", "EVOTRAIN_PROCESS", "JAX_PLATFORMS", "XLA_FLAGS")
report = {name: os.environ[name] for name in names} | {"overrides": sys.argv[1:]}
open(f"report-{os.environ['EVOTRAIN_PROCESS']}.json", "w").write(json.dumps(report))
print("process", os.environ["EVOTRAIN_PROCESS"])
"""


def test_local_tells_each_process_who_it_is(repository: Path, stub) -> None:
    folder = stub(REPORT)
    overrides = ("+experiment=quickstart", "steps=3")
    result = run_local(repository, folder, "--processes", "3", "--devices-per-process", "4", "--", *overrides)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "process 0\n"  # the others are silent
    reports = [json.loads((folder / f"report-{process}.json").read_text()) for process in range(3)]
    assert [report["EVOTRAIN_PROCESS"] for report in reports] == ["0", "1", "2"]
    assert {report["EVOTRAIN_PROCESSES"] for report in reports} == {"3"}
    assert {report["JAX_PLATFORMS"] for report in reports} == {"cpu"}
    assert len({report["EVOTRAIN_COORDINATOR"] for report in reports}) == 1
    assert all(report["overrides"] == list(overrides) for report in reports)
    # The count that holds is the last one: this suite's own environment says 8.
    assert all(report["XLA_FLAGS"].endswith("--xla_force_host_platform_device_count=4") for report in reports)


def test_local_ends_all_when_one_fails(repository: Path, stub) -> None:
    folder = stub(
        "import os, sys, time\n"
        "if os.environ['EVOTRAIN_PROCESS'] == '1':\n"
        "    sys.exit(print('the disk is full') or 7)\n"
        f"time.sleep({10 * PATIENCE})\n"
    )
    result = run_local(repository, folder, "--processes", "3")
    assert result.returncode == 7
    assert "process 1 failed" in result.stderr
    assert "the disk is full" in result.stderr


def test_local_returns_what_a_shell_returns_for_a_killed_program(repository: Path, stub) -> None:
    folder = stub("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    ended = run_local(repository, folder, "--processes", "1")
    assert ended.returncode == 128 + signal.SIGKILL
    assert "process 0 was killed by signal 9" in ended.stderr


def test_local_passes_a_preemption_on_to_every_process(repository: Path, stub) -> None:
    folder = stub(
        "import os, signal, sys, time\n"
        "process = os.environ['EVOTRAIN_PROCESS']\n"
        "def save(signum, frame):\n"
        "    open(f'saved-{process}', 'w').close()\n"
        "    sys.exit(143)\n"  # as evotrain does
        "signal.signal(signal.SIGTERM, save)\n"
        "open(f'started-{process}', 'w').close()\n"
        f"time.sleep({10 * PATIENCE})\n"
    )
    command = [sys.executable, str(repository / "launch" / "local.py")]
    launcher = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    wait_for(folder / "started-0")
    wait_for(folder / "started-1")
    launcher.terminate()
    _, errors = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 143
    assert errors == ""  # to have been stopped is no failure
    assert (folder / "saved-0").exists()
    assert (folder / "saved-1").exists()


def test_local_reports_a_failure_to_save_after_a_preemption(repository: Path, stub) -> None:
    folder = stub(
        "import os, signal, sys, time\n"
        "process = os.environ['EVOTRAIN_PROCESS']\n"
        "def save(signum, frame):\n"
        "    sys.exit(143 if process == '0' else print('the disk is full') or 1)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open(f'started-{process}', 'w').close()\n"
        f"time.sleep({10 * PATIENCE})\n"
    )
    command = [sys.executable, str(repository / "launch" / "local.py")]
    launcher = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    wait_for(folder / "started-0")
    wait_for(folder / "started-1")
    launcher.terminate()
    _, errors = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 1
    assert "process 1 failed" in errors
    assert "the disk is full" in errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--", "mesh.simulate=8"), "--devices-per-process makes the devices"),
        (("--processes", "0"), "must be at least 1"),
    ],
)
def test_local_refuses(repository: Path, stub, arguments: tuple[str, ...], sentence: str) -> None:
    result = run_local(repository, stub(REPORT), *arguments)
    assert result.returncode == 2
    assert sentence in result.stderr


@pytest.fixture
def slurm(repository: Path, tmp_path: Path):
    """Starts the batch script with stubs of srun, scancel and scontrol on the path; the latter note their arguments."""

    def start(srun: str) -> subprocess.Popen:
        programs = tmp_path / "bin"
        programs.mkdir()
        stubs = {"srun": srun} | {name: f'echo "$@" > {name}.txt' for name in ("scancel", "scontrol")}
        for name, text in stubs.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}
        script = ["bash", str(repository / "launch" / "slurm.sh"), "+experiment=af2_initial", "name=a b"]
        return subprocess.Popen(script, cwd=tmp_path, env=environment)

    return start


def test_slurm_runs_the_command_and_returns_its_exit_code(slurm, tmp_path: Path) -> None:
    job = slurm('printf "%s\\n" "$@" > srun.txt; exit 3')
    assert job.wait(PATIENCE) == 3
    words = (tmp_path / "srun.txt").read_text().splitlines()
    assert words == ["--kill-on-bad-exit=1", "python", "-m", "evotrain", "+experiment=af2_initial", "name=a b"]
    assert not (tmp_path / "scontrol.txt").exists()


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_lets_an_interrupted_run_save_and_requeues_it(slurm, tmp_path: Path, signum: signal.Signals) -> None:
    # The stub dies of a TERM of its own, as srun does. Its processes take a while to save: the script must wait for it,
    # though the signal ended its first wait.
    job = slurm("touch started; until [[ -e scancel.txt ]]; do sleep 0.05; done; sleep 0.5; touch saved; exit 143")
    wait_for(tmp_path / "started")
    job.send_signal(signum)
    assert job.wait(PATIENCE) == 143
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "scancel.txt").read_text().split() == ["--signal=TERM", "42"]
    assert (tmp_path / "scontrol.txt").read_text().split() == ["requeue", "42"]


def test_slurm_prepares_a_share_of_the_files_in_each_job_of_an_array(repository: Path, stub) -> None:
    folder = stub("import sys; print(*sys.argv[1:], sep='\\n'); sys.exit(3)")
    (folder / "python").symlink_to(sys.executable)  # the name that the script calls
    job = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "8", "PATH": f"{folder}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", str(repository / "launch" / "slurm_prepare.sh"), "data.root=a b", "prepare.out=c"],
        cwd=folder,
        env={**os.environ, **job},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 3, result.stderr
    assert result.stdout.splitlines() == ["command=prepare", "prepare.shard=2/8", "data.root=a b", "prepare.out=c"]


@pytest.mark.slow
def test_hydra_starts_a_job_for_each_share(repository: Path, tmp_path: Path, user_environment) -> None:
    """The command of the documentation with two shares, started one after the other by Hydra itself."""
    text = (repository / "launch" / "README.md").read_text(encoding="utf-8")
    command = re.search(r"python -m evotrain -m command=prepare .*?\$\(seq .*?\)", text)[0]
    sample, out = repository / "data" / "sample", tmp_path / "prepared"
    places = {"python": sys.executable, "DIRECTORY": str(sample), "=prepared": f"={out}", "%g/64 0 63": "%g/2 0 1"}
    for word, place in places.items():
        assert command.count(word) == 1
        command = command.replace(word, place)
    result = subprocess.run(
        ["bash", "-c", f"{command} prepare.workers=1 prepare.proteins_per_file=1"],
        cwd=tmp_path,
        env=user_environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    assert "3 of 6 files are there, other jobs make the rest." in result.stdout
    assert result.stdout.count("train on it with") == 1
    assert json.loads((out / "prepared.json").read_bytes())["complete"]


@pytest.mark.parametrize(
    ("plugin", "overrides", "expected"),
    [
        (
            "hydra_plugins.hydra_submitit_launcher",
            ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=1440", "hydra.launcher.cpus_per_task=16",
             "hydra.launcher.mem_per_cpu=4G"],
            {"timeout_min": 1440, "cpus_per_task": 16, "mem_per_cpu": "4G"},
        ),
        ("hydra_plugins.hydra_ray_launcher", ["+sweep=ray"], {"ray.remote.num_cpus": 8}),
    ],
)  # fmt: skip
def test_hydras_launchers_take_what_the_documentation_gives_them(
    repository: Path, plugin: str, overrides: list[str], expected: dict
) -> None:
    pytest.importorskip(plugin)
    text = (repository / "launch" / "README.md").read_text(encoding="utf-8")
    assert all(override in text for override in overrides)
    register_schema()
    with initialize_config_dir(version_base="1.3", config_dir=str(repository / "conf")):
        launcher = hydra_compose("train", overrides, return_hydra_config=True).hydra.launcher
    assert {key: OmegaConf.select(launcher, key) for key in expected} == expected


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.02)
