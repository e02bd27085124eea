"""The collectives of context parallelism, each by itself, on eight simulated devices: values, gradients, programs."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from evotrain.parallel import context
from evotrain.parallel.mesh import ALL_AXES, CONTEXT

DEVICES = 8
X = np.random.default_rng(0).normal(size=(8, 16, 24)).astype(np.float32)
TOWARDS = np.random.default_rng(1).normal(size=(DEVICES, *X.shape)).astype(np.float32)


def mesh(context_size: int = DEVICES) -> Mesh:
    return jax.make_mesh((DEVICES // context_size, 1, context_size), ALL_AXES, axis_types=(AxisType.Auto,) * 3)


def over(dim: int) -> P:
    """Sharded along a dimension."""
    return P(*(None,) * dim, CONTEXT)


def sharded(f: Callable, in_spec: P, out_spec: P) -> Callable:
    return jax.jit(jax.shard_map(f, mesh=mesh(), in_specs=in_spec, out_specs=out_spec))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_gather_gives_every_device_the_whole(dim: int):
    run = sharded(lambda x: context.gather(x, dim)[None], over(dim), over(0))
    np.testing.assert_array_equal(run(X), np.broadcast_to(X, (DEVICES, *X.shape)))


def test_the_gradient_of_gather_is_summed_over_devices_and_scattered():
    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(sharded(lambda x: context.gather(x, 1)[None], over(1), over(0))(x) * TOWARDS)

    gradient = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(gradient(X), TOWARDS.sum(0), rtol=1e-5, atol=1e-5)
    program = gradient.lower(X).compile().as_text()
    assert "reduce-scatter" in program
    assert "all-reduce" not in program


@pytest.mark.parametrize(("from_dim", "to_dim"), [(0, 1), (1, 0), (2, 0)])
def test_switch_moves_the_sharded_dimension_and_back_in_its_gradient(from_dim: int, to_dim: int):
    run = sharded(partial(context.switch, from_dim=from_dim, to_dim=to_dim), over(from_dim), over(to_dim))
    np.testing.assert_array_equal(run(X), X)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(run(x) * TOWARDS[0])))
    np.testing.assert_array_equal(gradient(X), TOWARDS[0])
    for program in (run, gradient):
        assert "all-to-all" in program.lower(X).compile().as_text()


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_shard_takes_the_own_part_without_communication(dim: int):
    run = sharded(partial(context.shard, dim=dim), P(), over(dim))
    np.testing.assert_array_equal(run(X), X)
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: jnp.sum(run(x) * TOWARDS[0])))(X), TOWARDS[0])
    program = run.lower(X).compile().as_text()
    assert not any(collective in program for collective in ("all-", "reduce-scatter", "collective-permute"))


def test_shard_refuses_what_does_not_divide():
    with pytest.raises(AssertionError, match="over 8 context shards"):
        sharded(partial(context.shard, dim=0), P(), over(0))(X[:7])


def test_rows_that_follow_a_whole_stand_on_the_last_shards():
    """Also where they begin within a shard, and fill others."""
    x, rows = X[:5].repeat(3, 0), X[:17].repeat(3, 0)[:17]
    blank = sharded(lambda x: context.shard_with_blanks(x, len(rows)), P(), over(0))
    np.testing.assert_array_equal(blank(x), np.concatenate([x, np.zeros_like(rows)]))

    def place(x: jax.Array, rows: jax.Array) -> jax.Array:
        on_a_shard = partial(context.replace_rows, start=len(X[:5]) * 3)
        return jax.shard_map(on_a_shard, mesh=mesh(), in_specs=(over(0), P()), out_specs=over(0))(x, rows)

    before = TOWARDS[0].repeat(4, 0)
    np.testing.assert_array_equal(jax.jit(place)(before, rows), np.concatenate([before[:15], rows]))
    weights = TOWARDS[1].repeat(4, 0)
    by_x, by_rows = jax.jit(jax.grad(lambda *args: jnp.sum(place(*args) * weights), (0, 1)))(before, rows)
    np.testing.assert_array_equal(by_x, np.concatenate([weights[:15], np.zeros_like(rows)]))
    np.testing.assert_array_equal(by_rows, weights[15:])


def test_rows_that_follow_a_whole_without_other_shards():
    x, rows = jnp.asarray(X[:3]), jnp.asarray(TOWARDS[0, :2])
    np.testing.assert_array_equal(context.shard_with_blanks(x, 2), np.concatenate([x, np.zeros_like(rows)]))
    np.testing.assert_array_equal(context.replace_rows(jnp.asarray(X[:5]), rows, 3), np.concatenate([x, rows]))


def test_sum_shards_adds_what_the_devices_hold():
    run = sharded(context.sum_shards, over(1), P())
    np.testing.assert_allclose(run(X), X.reshape(8, DEVICES, 2, 24).sum(1), rtol=1e-5, atol=1e-5)
    weights = TOWARDS[0, :, :2]
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(run(x) * weights)))(X)
    np.testing.assert_allclose(gradient, np.tile(weights, (1, DEVICES, 1)), rtol=1e-6)


def test_the_first_shard_is_given_to_all_and_alone_gets_the_gradient():
    run = sharded(context.first_shard_of, over(1), P())  # only what is equal on all devices may leave as P()
    np.testing.assert_array_equal(run(X), X[:, :2])
    weights = TOWARDS[0, :, :2]
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(run(x) * weights)))(X)
    np.testing.assert_array_equal(gradient[:, :2], weights)
    assert not np.any(gradient[:, 2:])
    # What other shards hold does not matter, not even if it is no number.
    poisoned = np.where(np.arange(X.shape[1])[None, :, None] < 2, X, np.nan)
    np.testing.assert_array_equal(run(poisoned), X[:, :2])


def test_other_shards_than_the_first_have_zeros():
    run = sharded(context.on_first_shard, over(0), over(0))
    np.testing.assert_array_equal(run(X), np.concatenate([X[:1], np.zeros_like(X[1:])]))


def test_each_does_nothing_without_other_shards():
    def all_of_them(x: jax.Array) -> jax.Array:
        assert context.size() == 1
        assert context.gather(x, 0) is x
        assert context.switch(x, 0, 1) is x
        assert context.shard(x, 0) is x
        assert context.sum_shards(x) is x
        assert context.on_first_shard(x) is x
        assert context.first_shard_of(x) is x
        return x

    all_of_them(jnp.ones((3, 5)))
    jax.jit(jax.shard_map(all_of_them, mesh=mesh(1), in_specs=P(), out_specs=P()))(jnp.ones((3, 5)))


def test_size_is_the_number_of_devices_that_share_an_example():
    sizes = []
    sharded(lambda x: sizes.append(context.size()) or x, over(0), over(0))(X)
    assert sizes == [DEVICES]
