"""`command=plan` from the command line: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest

from evotrain.cli import main
from evotrain.plan import command
from evotrain.plan.result import Memory, Work
from evotrain.plan.search import NEAR

FINETUNE = ["command=plan", "+experiment=af2_finetune", "data.root=unread"]


def plan(run_dir: Path, *overrides: str) -> dict:
    assert main([*FINETUNE, f"run_dir={run_dir}", *overrides]) == 0
    (directory,) = (run_dir / "plan").iterdir()
    assert directory.name == overrides[0].removeprefix("target=")
    assert (directory / "plan.png").stat().st_size > 10_000
    return json.loads((directory / "plan.json").read_text())


def test_gpus_are_planned_by_formula(tmp_path: Path, capsys: pytest.CaptureFixture):
    found = plan(tmp_path / "run", "target=h100_64", "mesh.context=8")
    printed = capsys.readouterr().out
    assert found["fits"]
    assert found["method"] == "analytic"
    assert (found["layout"]["data"], found["layout"]["context"]) == (8, 8)
    assert found["examples"] == 12_000 * 128
    assert found["step_seconds"] == max(found["times"].values())
    hours = 12_000 * found["step_seconds"] / 3600
    assert found["dollars"] == pytest.approx(64 * found["usd_per_chip_hour"] * hours)
    assert "the analytic model" in printed
    assert "on h100_64, 64 chips" in " ".join(printed.split())
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_does_not_fit_is_answered_with_what_does(tmp_path: Path, capsys: pytest.CaptureFixture):
    cramped = ["target=a100_64", "target.memory_gib=10", "batch_size=64"]
    found = plan(tmp_path / "run", *cramped, "mesh.remat=none")
    printed = " ".join(capsys.readouterr().out.split())
    assert not found["fits"]
    (advice,) = found["advice"]
    assert "mesh.context=" in advice
    assert "does not fit" in printed
    keys = advice.partition(": ")[2].split()
    assert plan(tmp_path / "mended", *cramped, *keys)["fits"]


def test_search_plans_the_cheapest_layout_that_fits(tmp_path: Path):
    cramped = ["target=a100_8", "target.memory_gib=16", "batch_size=16"]
    found = plan(tmp_path / "run", *cramped, "plan.search=true")
    assert found["fits"]
    fitting = [one for one in found["candidates"] if one["fits"]]
    (chosen,) = [one for one in fitting if one["layout"] == found["layout"]]
    assert chosen["step"] <= (1 + NEAR) * min(one["step"] for one in fitting)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "needs hardware to plan for: write target="),
        (
            ["target=v5e_16", "mesh.context=3"],
            "mesh=data fits any number), or choose another target",
        ),
        (["target=v5e_16", "mesh.simulate=16"], "mesh.simulate=16 changes nothing in command=plan"),
        (["target=h100_8", "target.link_gbps=null"], "needs target.link_gbps"),
        (["target=h100_256"], "batch_size=128 cannot be split over mesh.data × mesh.fsdp = 256 × 1"),
        (["target=h100_8", "target.memory_gib=0.1", "plan.search=true"], "fits on 8 devices"),
        (["target=h100_8", "model.structure.aligned_error=true"], "would leave that head untrained"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(
    overrides: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert main([*FINETUNE, f"run_dir={tmp_path / 'run'}", *overrides]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_keys_of_plan_are_of_plan_alone(capsys: pytest.CaptureFixture):
    assert main(["plan.search=true"]) == 2
    assert "plan.search changes nothing in command=train" in " ".join(capsys.readouterr().err.split())


def test_a_layout_that_the_compiler_finds_too_large_is_not_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The formulas may take a layout for one that fits."""
    gib = 2.0**30
    memory = Memory(parameters=0, optimizer=0, average=0, batch=0, gradients=0, kept=20 * gib, working=0)
    work = Work(flops=1e12, memory_bytes=1e9, collectives=())
    monkeypatch.setattr(command, "compiled", lambda config: (memory, work))
    found = plan(tmp_path / "run", "target=v5e_16", "batch_size=16", "plan.search=true")
    assert not found["fits"]
    (advice,) = found["advice"]
    layout = " ".join(f"mesh.{name}={value}" for name, value in found["layout"].items())
    assert "mesh.context=" in advice
    assert layout not in advice
