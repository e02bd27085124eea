"""When one process of a run is lost, the others end with a sentence, and without JAX's stack trace."""

import os
import re
import socket
from pathlib import Path

import jax
import pytest
from several_processes import PATIENCE, started_together

from evotrain.parallel.watch import bypass_proxies

HOST = socket.gethostname()
REMEDY = "look at the end of its log, then start the same command again to resume"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "fate", "sentence"),
    [
        (
            1,
            "killed",
            f"process 1, on {HOST}, has not been heard of for 6 s, so it has died or its machine .*: {REMEDY}",
        ),
        (0, "killed", rf"process 0, at 127\.0\.0\.1:\d+, has ended: {REMEDY}"),
        # As a machine that has lost its network: no connection is closed.
        (0, "stopped", rf"process 0, at 127\.0\.0\.1:\d+, has not answered for 6 s: {REMEDY}"),
        (1, "failed", f"process 1, on {HOST}, ended the run: the disk is full: free space"),
    ],
)
def test_the_others_say_which_process_was_lost(victim, fate, sentence):
    script = Path(__file__).with_name("lost_process.py")
    with started_together(script, 3, lambda _: [str(victim), fate], errors=True) as started:
        others = [process for number, process in enumerate(started) if number != victim]
        for process in others:
            output, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 1, output
            assert re.fullmatch(f"error: {sentence}", output.splitlines()[-1])
            assert "stack trace" not in output


def test_proxies_are_for_the_internet(monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    bypass_proxies("node1")
    assert "no_grpc_proxy" not in os.environ
    monkeypatch.setenv("http_proxy", "http://proxy:8080")
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("no_grpc_proxy", "")  # given back after the test
    bypass_proxies("node1", "127.0.0.1")
    assert ("no_grpc_proxy", "localhost,node1,127.0.0.1") in os.environ.items()
