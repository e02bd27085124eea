import dataclasses
import errno
import io
import json
import math
import os
import re

import numpy as np
import pytest

from evotrain import logging
from evotrain.config import Config, LoggerConfig
from evotrain.console import Console, format_number
from evotrain.errors import RunError
from evotrain.logging import MetricsLog, RunLogger, read_metrics
from evotrain.run_dir import RunDir

TRAIN = {
    "loss": 2.345,
    "loss/masked_msa": 2.1,
    "loss/distogram": 3.9,
    "grad_norm": 0.8,
    "lr": 1e-3,
    "time/step": 0.5,
    "time/examples_per_second": 12.34,
    "time/data_wait": 0.01,
}
EVALUATION = {
    "loss": 2.2,
    "loss/masked_msa": 2.0,
    "loss/distogram": 3.5,
    "masked_msa/accuracy": 0.5,
    "masked_msa/perplexity": 6.25,
    "contact/precision_at_L": 0.412,
    "contact/precision_at_L2": 0.5,
    "contact/precision_at_L5": 0.6,
    "contact/chance": 0.041,
    "dca/precision_at_L": 0.31,
    "dca/precision_at_L2": 0.35,
    "permuted/precision_at_L": 0.105,
    "time/eval": 3.21,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def run_dir(tmp_path):
    with RunDir.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def config():
    return Config(name="x", steps=400, batch_size=8, eval_every=100, logger=LoggerConfig(wandb="off"))


@pytest.fixture
def metrics_log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    yield log
    log.close()


def printed(write, stream=None):
    """What `write` prints to a console on a log, or on another stream."""
    stream = stream or io.StringIO()
    console = Console(total_steps=400, stream=stream)
    write(console)
    console.close()
    return stream.getvalue()


def test_rows_have_step_and_split_first_and_the_names_sorted(tmp_path, metrics_log):
    metrics_log.write(3, "train", {"lr": 0.5, "loss": 2.0, "examples": 24})
    expected = '{"step": 3, "split": "train", "examples": 24, "loss": 2.0, "lr": 0.5}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == expected


def test_floats_come_back_to_the_last_bit(tmp_path, metrics_log):
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, np.float32(0.1), np.float64(2.0) ** -40, np.array(0.3)]
    metrics_log.write(1, "train", {f"m{i}": value for i, value in enumerate(values)})
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert [row[f"m{i}"].hex() for i in range(len(values))] == [float(value).hex() for value in values]


def test_nan_and_infinity_are_valid_json_and_read_as_nan(tmp_path, metrics_log):
    metrics_log.write(1, "train", {"a": math.nan, "b": np.float32("inf"), "c": -math.inf})

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=refuse)
    assert [row[name] for name in "abc"] == [None] * 3
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert all(math.isnan(row[name]) for name in "abc")


def test_rows_are_appended_and_a_torn_line_is_not_read(tmp_path, metrics_log):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\n')
    metrics_log.write(2, "train", {})
    with path.open("a") as file:
        file.write('{"step": 3, "spl')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_a_row_that_the_system_writes_in_pieces_is_whole(tmp_path, metrics_log, monkeypatch):
    write = os.write
    monkeypatch.setattr(logging.os, "write", lambda file, content: write(file, content[:7]))
    metrics_log.write(1, "train", {"loss": 0.5})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "split": "train", "loss": 0.5}]


@pytest.mark.parametrize(("call", "broken"), [("write", "write"), ("sync", "fsync")])
def test_full_disk_is_one_sentence(metrics_log, monkeypatch, call, broken):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logging.os, broken, fail)
    with pytest.raises(RunError, match=r"cannot write .*metrics.jsonl: the disk is full: free some space"):
        getattr(metrics_log, call)(*((1, "train", {}) if call == "write" else ()))


def test_run_logger_writes_rows_and_summary(run_dir, config, capsys):
    with RunLogger(run_dir, config, primary=True) as logger:
        logger.show_start(["model: 312 thousand parameters"], step=0)
        logger.log(10, "train", {"loss": np.float32(2.5)})
        logger.log(10, "eval/held_out", {"loss": math.inf})
        logger.sync()
        logger.warn_once("a protein is broken")
        logger.warn_once("a protein is broken")
        logger.figure(10, "contacts", run_dir.figures / "contacts.png")
        facts = {"device_kind": "cpu", "parameters": 312, "examples_seen": 80}
        logger.summary("diverged", step=10, metrics={"loss": math.nan, "a": 1.5}, facts=facts)
    assert [(row["step"], row["split"]) for row in read_metrics(run_dir.metrics)] == [
        (10, "train"),
        (10, "eval/held_out"),
    ]
    summary = json.loads(run_dir.summary.read_text())
    versions = summary.pop("versions")
    assert summary == {"status": "diverged", "step": 10, "metrics": {"a": 1.5, "loss": None}} | facts
    assert versions.keys() == {"python", *logging.PACKAGES}
    assert versions["numpy"] == np.__version__
    out = capsys.readouterr().out
    assert "name x" in out
    assert "model: 312 thousand parameters" in out
    assert "step    10/400  loss 2.500" in out
    assert "eval held_out step 10: loss nan" in out
    assert out.count("warning: a protein is broken") == 1


def test_other_processes_only_warn(tmp_path, config, capsys):
    online = dataclasses.replace(config, logger=LoggerConfig(wandb="online"))
    with RunLogger(RunDir(tmp_path), online, primary=False) as logger:
        logger.show_start(["line"])
        logger.log(1, "train", TRAIN)
        logger.event("event")
        logger.warn_once("a protein is broken")
        logger.warn_once("a protein is broken")
        logger.figure(1, "f", tmp_path / "f.png")
        logger.sync()
        logger.summary("finished", step=1, metrics={}, facts={})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "warning: a protein is broken\n")


def test_unknown_status_is_our_own_mistake(run_dir, config):
    with RunLogger(run_dir, config, primary=True) as logger, pytest.raises(AssertionError, match="ended"):
        logger.summary("ended", step=1, metrics={}, facts={})


def test_training_row_of_a_log():
    out = printed(lambda console: console.log(120, "train", TRAIN | {"skipped": 1}))
    assert out == (
        "step   120/400  loss 2.345  masked_msa 2.100  distogram 3.900  grad_norm 0.800  12.3 ex/s  skipped 1\n"
    )


def test_training_row_drops_unknown_metrics_that_do_not_fit_and_names_a_slow_loader():
    many = {f"some/unknown_metric_{i}": 1.0 for i in range(9)}
    out = printed(lambda console: console.log(1, "train", {"loss": math.nan} | many))
    assert out.startswith("step     1/400  loss nan  some/unknown_metric_0 1.000")
    assert len(out) <= 101
    assert "data wait 60 %" in printed(lambda console: console.log(1, "train", TRAIN | {"time/data_wait": 0.3}))


def test_evaluation_row_of_a_log():
    out = printed(lambda console: console.log(200, "eval/held_out", EVALUATION | {"other": 7}))
    assert out == (
        "eval held_out step 200: contact P@L 0.412 (DCA 0.310, permuted 0.105, chance 0.041)\n"
        "    P@L/2 0.500 (DCA 0.350)  P@L/5 0.600\n"
        "    loss 2.200  masked_msa 2.000  distogram 3.500  masked-MSA accuracy 0.500  perplexity 6.250\n"
        "    other 7  took 3.2 s\n"
    )
    assert printed(lambda console: console.log(2, "eval/x", {"loss": 1e-5})) == "eval x step 2: loss 1.0e-05\n"
    assert printed(lambda console: console.log(2, "eval/x", {})).strip() == "eval x step 2:"


def test_evaluation_table():
    out = printed(lambda console: console.show_evaluation(EVALUATION))
    rows = [line.split() for line in out.splitlines()]
    for row in (["model", "0.412", "0.500", "0.600"], ["DCA", "0.310", "0.350"], ["permuted", "0.105"]):
        assert row in rows
    assert "masked-MSA accuracy 0.500" in out
    assert printed(lambda console: console.show_evaluation({"loss": 2.0})).split() == ["loss", "2.000"]


@pytest.mark.parametrize("columns", [80, 100])
def test_terminal_has_a_bar_and_rows_only_for_evaluations_and_warnings(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(console):
        console.show_start(
            {"name": "x", "model": {"blocks": 4, "loss": {"masked_msa": 2.0}}}, ["mesh: 1 device"], step=100
        )
        console.log(110, "train", TRAIN)
        console.log(110, "eval/held_out", EVALUATION)
        console.warn_once("a protein is broken")

    out = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed(run, Terminal()))
    assert "110/400 loss 2.345  12.3 ex/s" in out
    assert "grad_norm" not in out
    assert "P@L 0.412" in out
    assert "warning: a protein is broken" in out


def test_a_terminal_has_no_bar_where_no_step_is_left(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for step, bar in ((400, False), (399, True)):
        out = printed(lambda console, step=step: console.show_start({"name": "x"}, [], step=step), Terminal())
        assert (f"{step}/400" in out) == bar


def test_config_tree_holds_every_key_within_the_width():
    config = {"name": "x", "init_from": None, "resume_allow": [], "data": {f"a_long_key_{i}": i for i in range(12)}}
    config["data"]["nested"] = {"root": ""}
    out = printed(lambda console: console.show_start(config, []))
    for pair in ("name x", "init_from null", "resume_allow []", "a_long_key_11 11", 'root ""'):
        assert pair in out
    assert max(len(line) for line in out.splitlines()) <= 100


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (0.0, "0.000"), (2.3456, "2.346"), (1e-5, "1.0e-05"), (12345.6, "1.235e+04"), (math.nan, "nan")],
)
def test_format_number(value, text):
    assert format_number(value) == text
