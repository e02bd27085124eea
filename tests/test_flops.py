"""Operations counted in traced programs whose products are known."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from evotrain.compose import compose
from evotrain.flops import count_flops
from evotrain.model.evoformer import EvoformerBlock
from evotrain.model.layers import Policy


def flops(function, *shapes: tuple[int, ...]) -> int:
    return count_flops(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_a_matrix_product():
    assert flops(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (4, 3, 5), (4, 7, 5)) == 4 * 2 * 3 * 5 * 7
    assert flops(lambda a: jnp.exp(a) + a, (9, 9)) == 0


def test_the_gradient_of_a_product_costs_twice_the_product():
    gradient = jax.grad(lambda a, b: jnp.sum(jnp.square(a @ b)), argnums=(0, 1))
    assert flops(gradient, (3, 5), (5, 7)) == 3 * (2 * 3 * 5 * 7)


def test_loops_branches_and_calls():
    def scanned(a):
        return jax.lax.scan(lambda x, _: (x @ x, None), a, length=6)[0]

    def either(a):
        return jax.lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, a)

    assert flops(scanned, (4, 4)) == 6 * 2 * 4**3
    assert flops(either, (4, 4)) == 2 * 2 * 4**3
    assert flops(jax.jit(jax.checkpoint(lambda a: a @ a)), (4, 4)) == 2 * 4**3


def test_a_sharded_program_counts_for_one_device():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    assert flops(sharded, (16, 5), (5, 7)) == 2 * 2 * 5 * 7


def test_the_evoformer_block_at_the_published_sizes():
    """216.1 GFLOP forward for 128 sequences of 256 residues, counted by hand from the algorithms."""
    config = compose(["+experiment=af2_initial", "data.root=proteins"])

    def forward(m, z, msa_mask, pair_mask):
        block = EvoformerBlock(config.model, policy=Policy.of(config), rngs=nnx.Rngs(params=0))
        return block(m, z, msa_mask, pair_mask)

    sizes = (128, 256, config.model.c_m), (256, 256, config.model.c_z), (128, 256), (256, 256)
    assert flops(forward, *sizes) == pytest.approx(216.1e9, rel=0.03)
