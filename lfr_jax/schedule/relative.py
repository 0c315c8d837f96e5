"""Rates relative to their mean."""

import jax
import jax.numpy as jnp
import numpy as np

BITS = 31  # of a rate, where the largest is next below 2**31


@jax.jit  # one compilation where it is called outside of a jit
def relative(rate_N: jax.Array) -> jax.Array:
    """f32[N]: the rates divided by their mean, the same to the last bit on any mesh.

    The mean adds up whole numbers, about 2**-31 of the largest rate each, so their order does not matter.
    """
    # By a power of two, as that is exact: below 1.
    share_N = jnp.ldexp(rate_N, -jnp.frexp(jnp.max(rate_N))[1])
    whole_N = (share_N * np.float32(1 << BITS)).astype(jnp.uint32)
    # Digits so narrow that N of them fit into uint32.
    width = max(1, 32 - rate_N.size.bit_length())
    total = jnp.float32(0)
    for low in reversed(range(0, BITS + 1, width)):
        digit_N = (whole_N >> np.uint32(low)) & np.uint32((1 << width) - 1)
        total += jnp.sum(digit_N, dtype=jnp.uint32).astype(jnp.float32) * np.float32(2.0 ** (low - BITS))
    return share_N * (rate_N.size / total)
