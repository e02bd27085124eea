"""The transition of the MSA and of the pair representation."""

import jax
from flax import nnx

from evotrain.model.layers import Dense, LayerNorm, Policy
from evotrain.model.rows import map_rows


class Transition(nnx.Module):
    """A two-layer perceptron at each position (AlphaFold 2, Suppl. Alg. 9 and 15): x [..., C] -> update of x.

    Masked positions are transformed like all others, as in DeepMind's code.
    """

    def __init__(self, channels: int, factor: int, *, policy: Policy, rngs: nnx.Rngs):
        self.factor = factor
        self.norm = LayerNorm(channels, policy=policy)
        self.expand = Dense((channels,), (factor * channels,), kind="relu", policy=policy, rngs=rngs)
        self.contract = Dense((factor * channels,), (channels,), kind="final", policy=policy, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        def transform(x: jax.Array) -> jax.Array:
            return self.contract(jax.nn.relu(self.expand(self.norm(x))))

        return map_rows(transform, x, numbers=self.factor * x[0].size)
