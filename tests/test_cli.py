"""`python -m evotrain`: help, dispatch, sweeps, exit codes; training itself is replaced."""

import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from evotrain import cli, evaluate
from evotrain.cli import main, simulate_devices, trial_name
from evotrain.compose import compose, conf_dir, to_yaml
from evotrain.errors import ConfigError, DataError, Diverged, RunError
from evotrain.evaluation import Report


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Replaces training and evaluation; yields the configurations that they were called with."""
    configs = []

    def record(config):
        configs.append(config)
        if config.seed == 13:
            raise DataError("The seed 13 brings bad luck.")
        if config.seed == 23:
            raise Diverged("The seed 23 goes too far.")
        return 0.5

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "evotrain.train", types.SimpleNamespace(train=record))
    monkeypatch.setitem(sys.modules, "evotrain.evaluate", types.SimpleNamespace(evaluate_run=record))
    return configs


def test_no_argument_is_the_quickstart(trained, capfd):
    assert main([]) == 0
    assert trained == [compose()]
    assert capfd.readouterr() == ("", "")
    assert os.listdir() == []


def test_overrides_reach_the_configuration(trained):
    assert main(["+experiment=notebook", "optimizer.lr=0.5", "name=mine"]) == 0
    assert trained == [compose(["+experiment=notebook", "optimizer.lr=0.5", "name=mine"])]
    assert trained[0].run_dir == "runs/mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["zz=1"], "error: There is no key zz."),
        (["+experiment=nope"], "error: There is no +experiment=nope. The choices are"),
        (["steps=abc"], "error: steps=abc has the wrong type"),
        (["data=msa_dir"], "error: data.root has no value"),
        (["steps=0"], "error: steps=0 is too small"),
        (["--quick"], "error: There is no flag --quick: keys are set with key=value; flags are --help, -m"),
        (["--config-dir"], "error: --config-dir needs a value after it."),
        (["--config-dir", "nowhere"], "nowhere' not found"),
        (["+sweep=lr"], "error: +sweep=lr starts several runs: write python -m evotrain -m +sweep=lr."),
        (["-m", "seed=1,2", "--cfg", "job"], "error: -m and --cfg cannot go together: leave one of them out."),
        (["--info=all", "--cfg=job"], "error: --info and --cfg cannot go together"),
        (["--resolve"], "error: --resolve changes what --cfg prints, and nothing else: write --cfg job --resolve."),
        (["--package", "x"], "error: There is no flag --package"),
        (["-m", "run_dir=x", "seed=0,1"], "error: run_dir=x is one directory for all trials: write name=… for runs/"),
        (["target.chips=3"], "error: target.chips=3 changes nothing in command=train: leave it out, or write command="),
        (["command=info", "target.usd_per_chip_hour=3"], "error: target.usd_per_chip_hour=3 changes nothing in comm"),
        (["-m", "mesh.simulate=1,2"], "error: mesh.simulate=1,2 cannot be swept"),
        (["-m", "hydra/launcher=moon"], "pip install 'evotrain[sweep]'"),
        (["seed=1,2"], "error: seed has several values, 1,2: write -m for a sweep, or 'seed=[1,2]' for a list."),
        (["mesh.simulate=8", "mesh.data=3"], "needs 3 devices, but there are 8"),
        (["command=evaluate"], "error: command=evaluate needs the run that it uses"),
        (["command=evaluate", "run_dir=nowhere"], "error: There is no nowhere/config.yaml"),
        (["--help", "nothing"], "error: There is no group nothing: write --help with one of model, mesh"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_on_one_line(trained, capfd, arguments, sentence):
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert sentence in err
    assert err.count("\n") == 1
    assert out == ""
    assert trained == []


def test_slurm_needs_a_cluster(trained, capfd, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert main(["-m", "+sweep=[lr,slurm]"]) == 2
    assert "error: +sweep=[lr,slurm] needs SLURM, but this machine has no srun" in capfd.readouterr().err


def test_a_failed_run_is_one_line_and_exit_code_1(trained, capfd):
    assert main(["seed=13"]) == 1
    assert capfd.readouterr().err == "error: The seed 13 brings bad luck.\n"


def test_interruption_is_exit_code_130(monkeypatch, tmp_path):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "evotrain.train", types.SimpleNamespace(train=interrupt))
    assert main([]) == 130


def test_a_defect_keeps_its_traceback(monkeypatch, tmp_path):
    def divide(config):
        return 1 / 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "evotrain.train", types.SimpleNamespace(train=divide))
    with pytest.raises(ZeroDivisionError):
        main([])


# --- evaluation --------------------------------------------------------------------------------------------------


def test_evaluation_takes_the_run_of_run_dir(trained):
    Path("mine").mkdir()
    trained_as = compose(["data=msa_dir", "data.root=/old", "model=small", "data.crop=32"])
    Path("mine/config.yaml").write_text(to_yaml(trained_as))
    assert main(["command=evaluate", "run_dir=mine", "data.root=/new", "evaluate.checkpoint=last"]) == 0
    (config,) = trained
    assert (config.data.root, config.data.crop, config.model.blocks) == ("/new", 32, 8)
    assert (config.command, config.run_dir, config.evaluate.checkpoint) == ("evaluate", "mine", "last")


def test_evaluation_of_a_run_needs_no_experiment(trained, capfd):
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text(to_yaml(compose()))
    assert main(["command=evaluate", "run_dir=mine", "+experiment=notebook"]) == 2
    assert "+experiment=notebook cannot be given to command=evaluate" in capfd.readouterr().err


def test_evaluation_says_how_many_examples_there_were(one_device, monkeypatch, tmp_path, capfd):
    counted = []

    class Judge:
        def __init__(self, source, config, mesh, step, examples):
            counted.append(examples)

        def run(self, params):
            return Report({"loss": 0.5, "contact/chance": math.nan}, None, [], [{"name": "a", "loss": 0.5}])

    def five_at_most(config):
        return types.SimpleNamespace(
            held_out=min(5, config.data.eval_examples), description="families", fingerprints={}
        )

    monkeypatch.setattr(evaluate, "open_source", five_at_most)
    monkeypatch.setattr(evaluate, "Evaluation", Judge)
    monkeypatch.setattr(evaluate, "load_params", lambda *_: (None, 7))
    overrides = ["data.eval_examples=2", f"run_dir={tmp_path}", "command=evaluate"]
    for examples, sentence in ((4, "on 4 held-out examples of"), (9, "on 5 held-out examples (9 were asked for) of")):
        assert evaluate.evaluate_run(compose([*overrides, f"evaluate.examples={examples}"])) == 0.5
        assert sentence in " ".join(capfd.readouterr().out.split())
    assert counted == [4, 5]
    found = json.loads((tmp_path / "evaluate" / "coevolution-7" / "metrics.json").read_text())
    assert (found["examples"], found["metrics"]) == (5, {"loss": 0.5, "contact/chance": None})
    assert (tmp_path / "evaluate" / "coevolution-7" / "per_protein.csv").read_text() == "name,loss\na,0.5\n"


def test_evaluation_where_nothing_can_be_written(one_device, monkeypatch, tmp_path):
    (tmp_path / "evaluate").write_text("a file")
    judge = types.SimpleNamespace(run=lambda _: Report({"loss": 0.5}, None, [], []))
    monkeypatch.setattr(evaluate, "Evaluation", lambda *_: judge)
    monkeypatch.setattr(evaluate, "load_params", lambda *_: (None, 7))
    with pytest.raises(RunError, match="a part of the path is a file"):
        evaluate.evaluate_run(compose([f"run_dir={tmp_path}", "command=evaluate"]))


# --- sweeps ------------------------------------------------------------------------------------------------------


def test_each_trial_has_its_own_stable_directory(trained):
    for _ in range(2):
        assert main(["model.blocks=2", "optimizer.lr=1e-2,1e-3", "-m"]) == 0
    assert [config.run_dir for config in trained] == [
        "runs/quickstart/model.blocks=2,optimizer.lr=0.01",
        "runs/quickstart/model.blocks=2,optimizer.lr=0.001",
    ] * 2
    assert [config.optimizer.lr for config in trained[:2]] == [1e-2, 1e-3]


def test_prepared_sweeps(trained):
    assert main(["-m", "+sweep=lr", "name=grid"]) == 0
    assert main(["-m", "+sweep=seeds", "resume=must"]) == 0
    assert [config.run_dir for config in trained[:2]] == [
        "runs/grid/optimizer.lr=0.0003",
        "runs/grid/optimizer.lr=0.001",
    ]
    assert [config.run_dir for config in trained[5:]] == [f"runs/quickstart/seed={seed}" for seed in range(5)]


def test_a_sweep_over_experiments(trained):
    assert main(["-m", "+experiment=quickstart,notebook", "seed=3"]) == 0
    assert [config.run_dir for config in trained] == ["runs/quickstart/seed=3", "runs/notebook/seed=3"]


def test_a_given_run_directory_stays(trained):
    assert main(["-m", "seed=1,2", "run_dir=mine/${seed}"]) == 0
    assert [config.run_dir for config in trained] == ["mine/1", "mine/2"]


def test_a_failing_trial_ends_the_sweep(trained, capfd):
    assert main(["-m", "seed=12,13,14"]) == 1
    assert [config.seed for config in trained] == [12, 13]
    assert "error: The seed 13 brings bad luck.\n" in capfd.readouterr().err


@pytest.mark.parametrize(("best", "worst"), [("loss", math.inf), ("masked_msa/accuracy", -math.inf)])
def test_a_diverged_trial_is_the_worst_of_its_sweep(trained, capfd, monkeypatch, best, worst):
    results = []

    def remember(task):
        return lambda cfg: results.append(task(cfg)) or results[-1]

    make = cli.hydra.main
    monkeypatch.setattr(cli.hydra, "main", lambda **settings: lambda task: make(**settings)(remember(task)))
    assert main(["-m", "seed=22,23,24", f"checkpoint.best={best}"]) == 0
    assert [config.seed for config in trained] == [22, 23, 24]
    assert results == [0.5, worst, 0.5]
    assert "error: The seed 23 goes too far.\n" in capfd.readouterr().err


def test_a_diverged_run_is_exit_code_1(trained, capfd):
    assert main(["seed=23"]) == 1
    assert capfd.readouterr().err == "error: The seed 23 goes too far.\n"


def test_checkpoints_of_one_run_can_be_swept(trained):
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text(to_yaml(compose()))
    assert main(["-m", "command=evaluate", "run_dir=mine", "evaluate.checkpoint=10,20"]) == 0
    assert [(config.run_dir, config.evaluate.checkpoint) for config in trained] == [("mine", "10"), ("mine", "20")]


def test_names_of_trials():
    assert (
        trial_name(["seed=1", "optimizer.lr=1e-3", "+experiment=x", "+sweep=lr", "name=y"])
        == "optimizer.lr=1e-3,seed=1"
    )
    assert trial_name([]) == "trial"
    slashed = trial_name(["data.root=/a/b"])
    assert slashed.startswith("data.root=_a_b-")
    assert slashed != trial_name(["data.root=_a/b"])
    assert len(trial_name([f"data.root={'x' * 500}"])) <= 200


# --- devices, help, installation ---------------------------------------------------------------------------------


def test_simulated_devices():
    program = (
        "import sys; from evotrain.cli import simulate_devices; simulate_devices(4); import jax; "
        "simulate_devices(4); print(jax.device_count(), jax.default_backend())"
    )
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": ""}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | flags, check=True
    )
    assert result.stdout.split() == ["4", "cpu"]


def test_simulated_devices_come_before_jax():
    import jax

    with pytest.raises(ConfigError, match=r"too late, jax already has \d+ devices"):
        simulate_devices(jax.device_count() + 1)
    simulate_devices(0)


def test_help_lists_what_there_is(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["--help"]) == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    for path in (conf_dir() / "experiment").glob("*.yaml"):
        assert path.stem in out
    for word in ("python -m evotrain", "command=evaluate", "model=af2 | small", "batch_size", "optimizer steps of"):
        assert word in out
    assert "hydra" not in out.lower()


def test_help_of_a_group(capfd):
    assert main(["data", "--help"]) == 0
    out = capfd.readouterr().out
    for word in ("coevolution", "data.crop", "Keys of data=msa_dir", "data.root"):
        assert word in out


def test_the_module_runs_from_any_directory(tmp_path):
    package = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "evotrain"]
    environment = os.environ | {"PYTHONPATH": package}
    shown = subprocess.run([*command, "--cfg", "job"], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "name: quickstart" in shown.stdout, shown.stderr
    wrong = subprocess.run([*command, "zz=1"], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: There is no key zz.")
    assert wrong.stderr.count("\n") == 1
