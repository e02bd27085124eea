"""Blocks of one kind, one after another under one scan."""

from typing import Any

import jax
from flax import nnx
from jax import lax

from evotrain.config import ModelConfig
from evotrain.model.layers import Policy
from evotrain.parallel import fsdp
from evotrain.parallel.context import GATHERED

# By mesh.remat, but for "none", which has no checkpoint at all.
REMAT_POLICIES = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "gathered": jax.checkpoint_policies.save_only_these_names(GATHERED),
}


class Stack(nnx.Module):
    """`length` blocks of a class, whose parameters have a leading layer dimension.

    They run under one scan, so that 48 blocks compile as fast as two. A block's parameters are gathered inside the
    scan, and `mesh.remat` says what is kept for the backward pass. A block is made by `(config, policy=…, rngs=…)`,
    called as `block(*carry, *shared, key)`, and returns the new carry.
    """

    def __init__(self, block: type[nnx.Module], config: ModelConfig, length: int, *, policy: Policy, rngs: nnx.Rngs):
        self.block, self.config, self.length, self.policy = block, config, length, policy

        @nnx.split_rngs(splits=length)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked(rngs: nnx.Rngs) -> nnx.Module:
            return block(config, policy=policy, rngs=rngs)

        self.blocks = stacked(rngs)

    def scan(
        self, carry: tuple[jax.Array, ...], shared: tuple[jax.Array, ...], key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """The carry after all blocks. `shared` is what every block is given; `key` draws dropout, None means none."""
        # One block's structure and whole shapes; the stacked parameters may be a device's part of them.
        one = nnx.eval_shape(lambda: self.block(self.config, policy=self.policy, rngs=nnx.Rngs(0)))
        graphdef, whole = nnx.split(one, nnx.Param)

        def body(carry: tuple[jax.Array, ...], layer: tuple[Any, jax.Array | None]) -> tuple[Any, None]:
            params, key = layer
            block = nnx.merge(graphdef, fsdp.gather(params, whole))
            return block(*carry, *shared, key), None

        if self.policy.remat != "none":
            # XLA unrolls a loop of one block, and would then compute once what is to be computed again.
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.policy.remat], prevent_cse=self.length == 1)
        keys = None if key is None else jax.random.split(key, self.length)
        carry, _ = lax.scan(body, carry, (nnx.state(self.blocks, nnx.Param), keys))
        return carry
