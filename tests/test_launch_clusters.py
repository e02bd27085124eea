"""The launchers for TPU machines, Kubernetes and Ray, with stand-ins for their programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evotrain.parallel import launchers

PATIENCE = 60  # seconds that a started program may take at most; nothing here measures time


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["tpu-vm", "ssh", "pod a", "--worker=all"]),
        ({"RESOURCE": "queued-resources"}, ["queued-resources", "ssh", "pod a", "--node=all", "--worker=all"]),
    ],
)
def test_tpu_machines_run_the_command_as_it_was_written(repository, tmp_path, environment, words):
    """The stand-in for gcloud notes its words and runs the command in a shell, as ssh does."""
    stand_ins = {
        "gcloud": 'printf "%s\\n" "${@:1:$#-1}" > words.txt; last=${!#}; exec sh -c "${last#--command=}"',
        "python": 'printf "%s\\n" "$@" > command.txt; exit 3',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    # A login shell sets its own path.
    (tmp_path / ".bash_profile").write_text(f"PATH={tmp_path}:$PATH\n")
    result = subprocess.run(
        [repository / "launch" / "tpu_vm.sh", "pod a", "us-east5-a", "+experiment=af2_initial", "name=a 'b' $c"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)} | environment,
        timeout=PATIENCE,
    )
    assert result.returncode == 3
    expected = ["compute", "tpus", *words, "--zone=us-east5-a"]
    assert (tmp_path / "words.txt").read_text().splitlines() == expected
    command = (tmp_path / "command.txt").read_text().splitlines()
    assert command == ["-m", "evotrain", "+experiment=af2_initial", "name=a 'b' $c"]


@pytest.mark.parametrize("name", ["gke_tpu", "gke_gpu"])
def test_jobsets(repository, name):
    jobset = read_jobset(repository, name)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [job] = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert container["command"] == ["python", "-m", "evotrain"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    # A mistake in the command (exit code 2) ends it, anything else starts it again.
    assert pod["restartPolicy"] == "Never"
    [rule] = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    assert jobset["spec"]["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    run_dirs = [word for word in container["args"] if word.startswith("run_dir=")]
    [shared] = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "shared"]
    assert [run_dir.startswith(f"run_dir={shared}/") for run_dir in run_dirs] == [True]


def test_the_pods_with_gpus_know_their_places(repository):
    jobset = read_jobset(repository, "gke_gpu")
    [job] = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    [container] = spec["template"]["spec"]["containers"]
    # JobSet names pod 0 of job 0 so; Kubernetes writes the pod's number into the annotation.
    host = f"{jobset['metadata']['name']}-{job['name']}-0-0.{jobset['metadata']['name']}"
    number = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    environment = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
    assert environment["EVOTRAIN_PROCESS"] == number
    place = launchers.explicit_place(environment | {"EVOTRAIN_PROCESS": "1"})
    assert place == {"coordinator_address": f"{host}:8482", "num_processes": spec["parallelism"], "process_id": 1}
    assert spec["completionMode"] == "Indexed"


def test_the_pods_with_tpus_are_as_many_as_a_slice_has_machines(repository):
    [job] = read_jobset(repository, "gke_tpu")["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    width, height = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    [container] = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["template"]["spec"]["parallelism"] * chips == width * height
    assert "env" not in container  # GKE tells the pods their places


def read_jobset(repository: Path, name: str) -> dict:
    return yaml.safe_load((repository / "launch" / f"{name}.yaml").read_text(encoding="utf-8"))


# As much of Ray as the launcher uses: an actor is an object, and a call of it has happened when it returns.
RAY = {
    "ray/__init__.py": """
from types import SimpleNamespace
from ray import util

asked = []
init = lambda: None
get = lambda result: result
wait = lambda results: (results[:1], results[1:])

class Method:
    def __init__(self, call): self.remote = call

class Actor:
    def __init__(self, plain): self._plain = plain
    def __getattr__(self, name): return Method(getattr(self._plain, name))

def remote(cls):
    def options(*, scheduling_strategy, **resources):
        asked.append(resources)
        return SimpleNamespace(remote=lambda: Actor(cls()))
    return SimpleNamespace(options=options)
""",
    "ray/util/__init__.py": "get_node_ip_address = lambda: '10.0.0.1'",
    "ray/util/placement_group.py": """
from types import SimpleNamespace

def placement_group(bundles, strategy):
    import json
    open("bundles.json", "w").write(json.dumps([bundles, strategy]))
    return SimpleNamespace(wait=lambda seconds: True)
""",
    "ray/util/scheduling_strategies.py": "PlacementGroupSchedulingStrategy = lambda group, number: number",
    "evotrain/__init__.py": "",
    "evotrain/__main__.py": """
import json, os, sys
report = {name: value for name, value in os.environ.items() if name.startswith("EVOTRAIN_")}
with open("reports.jsonl", "a") as file:
    print(json.dumps(report | {"overrides": sys.argv[1:]}), file=file)
sys.exit(7 if report.get("EVOTRAIN_PROCESS") == "1" else 0)
""",
}


@pytest.fixture
def ray_hosts(repository, tmp_path):
    """Starts the launcher among the stand-ins for Ray and evotrain; returns its exit code and what they were told."""
    for name, text in RAY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def start(*arguments: str) -> tuple[int, list, list[dict]]:
        command = [sys.executable, repository / "launch" / "ray_hosts.py", *arguments, "--", "steps=3", "name=a b"]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        result = subprocess.run(command, cwd=tmp_path, env=environment, timeout=PATIENCE)
        reports = (tmp_path / "reports.jsonl").read_text().splitlines()
        return result.returncode, json.loads((tmp_path / "bundles.json").read_text()), list(map(json.loads, reports))

    return start


def test_ray_starts_a_process_on_each_host(ray_hosts):
    code, (bundles, strategy), reports = ray_hosts("--hosts", "3", "--gpus", "8")
    assert code == 7  # that of process 1
    assert (bundles, strategy) == ([{"CPU": 1, "GPU": 8}] * 3, "STRICT_SPREAD")
    assert [report["overrides"] for report in reports] == [["steps=3", "name=a b"]] * 3
    assert [report["EVOTRAIN_PROCESS"] for report in reports] == ["0", "1", "2"]
    assert {report["EVOTRAIN_PROCESSES"] for report in reports} == {"3"}
    [coordinator] = {report["EVOTRAIN_COORDINATOR"] for report in reports}
    assert coordinator.startswith("10.0.0.1:")


def test_ray_leaves_the_numbers_of_tpu_machines_to_jax(ray_hosts):
    code, (bundles, _), reports = ray_hosts("--hosts", "2", "--tpus", "4")
    assert code == 0
    assert bundles == [{"CPU": 1, "TPU": 4}] * 2
    assert reports == [{"overrides": ["steps=3", "name=a b"]}] * 2
