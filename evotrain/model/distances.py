"""Distances between residues as features of the pair representation.

Dimensions: residues (rows I, columns J of a pair), B distance bins.
"""

import jax
import jax.numpy as jnp


def binned_distances(
    rows_I3: jax.Array, columns_J3: jax.Array, *, first: float, last: float, bins: int, dtype: jnp.dtype
) -> jax.Array:
    """The one-hot bins [I, J, B] of the distances between points, in Å.

    The bins start at `bins` evenly spaced distances from `first` to `last` and the last is open; a shorter distance
    than `first` is in none. Computed at least in float32, and constant as far as gradients are concerned.
    """
    wide = jnp.promote_types(rows_I3.dtype, jnp.float32)
    starts_B = jnp.square(jnp.linspace(first, last, bins, dtype=wide))
    ends_B = jnp.append(starts_B[1:], jnp.inf)
    squared_IJ1 = jnp.sum(jnp.square(rows_I3[:, None].astype(wide) - columns_J3[None].astype(wide)), -1, keepdims=True)
    inside_IJB = (squared_IJ1 > starts_B[None, None]) & (squared_IJ1 < ends_B[None, None])
    return inside_IJB.astype(dtype)
