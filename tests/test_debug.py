"""Aids for finding a fault: a NaN is named, with the operation that made it."""

import jax
import jax.numpy as jnp
import pytest
from tiny_run import train_tiny

from evotrain.errors import RunError
from evotrain.losses.representation import masked_msa_loss
from evotrain.model import network


@pytest.fixture
def debug_nans_off_again():
    yield
    jax.config.update("jax_debug_nans", False)


@pytest.mark.nightly  # operation by operation
@pytest.mark.usefixtures("one_device", "debug_nans_off_again")
def test_a_nan_is_named_with_its_line(tmp_path, monkeypatch):
    def broken(logits, *labels):
        loss, accuracy = masked_msa_loss(logits, *labels)
        return jnp.log(loss - loss - 1.0), accuracy

    monkeypatch.setattr(network, "masked_msa_loss", broken)
    with pytest.raises(RunError, match=r"debug\.nans: step 1 made a NaN \(.*, at .*\.py:\d+\)"):
        train_tiny(tmp_path / "run", "debug.nans=true", "seed=77", "eval_every=0")
