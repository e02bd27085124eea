"""The learning rate, clipping, Adam and the parameter average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from evotrain import optimizer
from evotrain.config import OptimizerConfig

RNG = np.random.default_rng(0)
TREE = {"a": RNG.normal(size=(3, 4)).astype(np.float32), "b": {"c": RNG.normal(size=5).astype(np.float32)}}


@pytest.mark.parametrize(
    ("examples", "rate"),
    [
        (128, 1e-6),  # the first step of 128
        (64_000, 5e-4),
        (128_000, 1e-3),
        (128_128, 1e-3),
        (6_400_000, 1e-3),  # step 50,000
        (6_400_128, 9.5e-4),
        (12_800_128, 9.5e-4),  # one drop, no staircase
    ],
)
def test_the_rate_of_alphafold_counts_examples(examples: int, rate: float):
    assert optimizer.learning_rate(OptimizerConfig(), jnp.int32(examples)) == pytest.approx(rate, rel=1e-6)


def test_a_rate_without_warm_up_and_drop_is_constant():
    config = OptimizerConfig(lr=5e-4, warmup_examples=0, decay_examples=None)
    for examples in (1, 10_000_000):
        assert optimizer.learning_rate(config, jnp.int32(examples)) == pytest.approx(5e-4, rel=1e-6)


@pytest.mark.parametrize(("norm", "factor"), [(0.0, 1.0), (0.05, 1.0), (0.1, 1.0), (0.4, 0.25)])
def test_clipping_scales_a_gradient_down_to_the_norm(norm: float, factor: float):
    assert optimizer.clip_factor(jnp.float32(norm), 0.1) == pytest.approx(factor, rel=1e-6)


def test_update_is_that_of_optax_adam():
    config = OptimizerConfig()
    rates = [1e-3, 5e-4, 2e-4]
    reference = optax.adam(lambda count: jnp.asarray(rates)[count], b1=0.9, b2=0.999, eps=1e-6)
    params, expected = TREE, TREE
    state, reference_state = optimizer.adam(config).init(params), reference.init(expected)
    step = jax.jit(lambda *args: optimizer.update(config, *args))
    for i, rate in enumerate(rates):
        grads = jax.tree.map(lambda x, i=i: np.cos(i + 10 * x), TREE)
        params, state = step(grads, params, state, rate)
        updates, reference_state = reference.update(grads, reference_state)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), params, expected)
    assert state.count == 3


def test_the_first_step_of_adam_by_hand():
    config = OptimizerConfig(eps=1e-6)
    grads, params = {"w": jnp.array([2.0, -1e-6, 0.0])}, {"w": jnp.zeros(3)}
    params, _ = optimizer.update(config, grads, params, optimizer.adam(config).init(params), jnp.float32(0.1))
    # −rate · g / (|g| + ε)
    np.testing.assert_allclose(params["w"], [-0.1, 0.05, 0.0], rtol=1e-4)


def test_average_moves_by_what_the_decay_leaves():
    new = jax.tree.map(lambda x: x + 1.0, TREE)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b + 0.1, rtol=1e-5), optimizer.average(TREE, new, 0.9), TREE
    )
    jax.tree.map(np.testing.assert_array_equal, optimizer.average(TREE, new, 0.0), new)
