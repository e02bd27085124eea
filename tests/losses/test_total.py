"""The loss that is minimised."""

import jax.numpy as jnp
import pytest

from evotrain.config import LossConfig
from evotrain.losses.total import weighted_total


def test_total_is_weighted_and_scaled_by_the_root_of_the_length():
    parts = {"masked_msa": jnp.float32(3.0), "distogram": jnp.float32(4.0)}
    assert weighted_total(parts, jnp.float32(100), LossConfig()) == pytest.approx(10 * (2.0 * 3 + 0.3 * 4))
    config = LossConfig(masked_msa=0.5, distogram=0.0, scale_by_length=False)
    assert weighted_total(parts, jnp.float32(100), config) == pytest.approx(1.5)
