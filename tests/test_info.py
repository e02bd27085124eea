"""`command=info` on the console."""

import io
import os

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from evotrain import cli
from evotrain.checks import check
from evotrain.compose import compose
from evotrain.errors import ConfigError
from evotrain.info import show
from evotrain.model_summary import summarise

AF2 = ("command=info", "+experiment=af2_initial", "data.root=/nowhere", "mesh=fsdp", "mesh.simulate=8")


def shown(*overrides: str, width: int) -> list[str]:
    """The lines that a terminal so wide shows."""
    stream = io.StringIO()
    show(
        summarise(compose(["command=info", "mesh.data=1", *overrides])),
        Console(file=stream, width=width, highlight=False),
    )
    return stream.getvalue().splitlines()


def compilations(records) -> list[str]:
    return [record.getMessage() for record in records if "Finished XLA compilation" in record.getMessage()]


def test_it_needs_no_data_compiles_nothing_and_writes_nothing(capfd, monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "simulate_devices", lambda count: None)  # other tests have made theirs
    with jax.log_compiles():
        assert cli.main(AF2) == 0
        assert compilations(caplog.records) == []
        jax.jit(lambda x: x + 1)(jnp.zeros(3))
        assert compilations(caplog.records)
    out = capfd.readouterr().out
    for text in (
        "mesh      data 1 × fsdp 8 × context 1 = 8 simulated devices\n",
        "batch     128 examples, 16 on a device, 1 at a time\n",
        "recycles  0 to 3, drawn for every step\n",
        "dtype     bfloat16 activations, float32 training state\n",
        "48 × 1,829,952",
    ):
        assert text in out
    words = [line.split() for line in out.splitlines()]
    assert ["all", "93,229,082", "44.5", "MiB", "177.8", "MiB"] in words
    assert ["all", "1.4", "GiB", "177.8", "MiB", "1.0000"] in words
    assert ["pair", "256×256×128", "256×256×128", "16.0", "MiB"] in words
    assert max(map(len, out.splitlines())) < 80
    assert os.listdir() == []


def test_every_array_has_a_row():
    summary = summarise(compose(["command=info", "mesh.data=1", "mesh.fsdp=4"]))
    lines = shown("mesh.fsdp=4", "info.arrays=true", width=120)
    for array in summary.arrays:
        (line,) = (line for line in lines if line.startswith(f"{array.name} "))
        split = "replicated" if array.split is None else f"dimension {array.split}"
        assert f"{'×'.join(map(str, array.shape))}  " in line
        assert f" {split} " in line


def test_a_long_name_is_broken_at_a_dot():
    lines = shown("model.blocks=2", "info.arrays=true", width=70)
    place = next(i for i, line in enumerate(lines) if line.startswith("evoformer.blocks.row_attention"))
    assert lines[place].split() == ["evoformer.blocks.row_attention", "2×2×16", "replicated", "256", "B"]
    assert lines[place + 1].rstrip() == "  .attention.gate.bias"
    assert max(map(len, lines)) <= 70


def test_what_is_off_is_left_out():
    lines = shown("model.recycles=0", width=80)
    assert "recycles  none" in lines
    assert not any(line.startswith(("templates", "extra")) for line in lines)


def test_its_key_is_of_no_use_elsewhere():
    with pytest.raises(ConfigError) as caught:
        check(compose(["info.arrays=true"]), 1)
    assert str(caught.value) == ("info.arrays changes nothing in command=train: leave it out, or write command=info.")
