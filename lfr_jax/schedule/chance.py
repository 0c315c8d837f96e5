"""Choices by chance, the same again for the same seed, purpose and phase."""

import jax

from lfr_jax.schedule.select import hardest


def phase_key(seed: int, purpose: int, phase_index: int) -> jax.Array:
    """A random key, unlike that of any other arguments. `purpose` tells apart what one seed is used for."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), phase_index)


def random_blocks(key: jax.Array, like_N: jax.Array, k: int) -> jax.Array:
    """bool[N], exactly k of them True, each subset as likely as any other; sharded like `like_N`."""
    return hardest(jax.random.uniform(key, like_N.shape, out_sharding=jax.typeof(like_N).sharding), k)
