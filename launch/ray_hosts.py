"""Trains on the machines of a Ray cluster, one process a machine.

    python launch/ray_hosts.py --hosts 2 --gpus 8 -- +experiment=af2_initial data.root=DIRECTORY run_dir=DIRECTORY

RAY_ADDRESS names a cluster that this machine is no part of, as does `ray job submit`. The output of the processes comes
to the console through Ray. The exit code is that of the first process that failed.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

WAIT_SECONDS = 600  # for the machines to be free


@ray.remote
class Host:
    """A machine of the cluster, with its accelerators."""

    def free_address(self) -> str:
        """An address of this machine at which nobody listens."""
        with socket.create_server(("", 0)) as server:
            return f"{ray.util.get_node_ip_address()}:{server.getsockname()[1]}"

    def train(self, overrides: Sequence[str], place: dict[str, str]) -> int:
        """Runs one process to its end and returns its exit code."""
        return subprocess.run([sys.executable, "-m", "evotrain", *overrides], env=os.environ | place).returncode


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    ray.init()
    needs = {"CPU": options.cpus, "GPU": options.gpus, "TPU": options.tpus}
    bundle = {name: count for name, count in needs.items() if count}
    group = placement_group([bundle] * options.hosts, strategy="STRICT_SPREAD")
    if not group.wait(WAIT_SECONDS):
        sys.exit(f"Ray has not found {options.hosts} hosts with {bundle} each within {WAIT_SECONDS} s: see ray status")
    resources = {"num_cpus": options.cpus, "num_gpus": options.gpus}
    if options.tpus:
        resources["resources"] = {"TPU": options.tpus}
    hosts = [
        Host.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, number), **resources).remote()
        for number in range(options.hosts)
    ]
    # The machines of a TPU slice have their own numbers, which JAX finds by itself.
    coordinator = None if options.tpus else ray.get(hosts[0].free_address.remote())
    runs = []
    for process, host in enumerate(hosts):
        place = {
            "EVOTRAIN_COORDINATOR": coordinator,
            "EVOTRAIN_PROCESSES": str(options.hosts),
            "EVOTRAIN_PROCESS": str(process),
        }
        runs.append(host.train.remote(options.overrides, place if coordinator else {}))
    waiting = list(runs)
    code = 0
    while waiting:  # a process that fails ends the others, so the first to end is the one to blame
        done, waiting = ray.wait(waiting)
        code = code or ray.get(done[0])
    return code if code >= 0 else 128 - code  # as a shell reports a signal


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], epilog="What follows -- goes to python -m evotrain unchanged."
    )
    parser.add_argument("--hosts", type=int, required=True, help="machines to train on")
    parser.add_argument("--cpus", type=int, default=1, help="cores to reserve on each (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each (default: %(default)s)")
    parser.add_argument("--tpus", type=int, default=0, help="TPU chips of each (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what to run, after --")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
