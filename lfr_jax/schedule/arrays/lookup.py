"""The numbers of some blocks, out of an array that has one for each block."""

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.shards import on_shards


def take_blocks(x_N: jax.Array, ids_B: jax.Array) -> jax.Array:
    """The entries of blocks by their ids. It works under jit, and where `x_N` is sharded: no device needs all of it.

    Args:
      x_N: [N], may be sharded, over axes of either type.
      ids_B: i32[B] or u32[B], not sharded.

    Returns:
      [B]; 0 for ids outside 0..N−1, such as those of padding.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> schedule.take_blocks(jnp.array([0.5, 1.5, 2.5]), jnp.array([2, 0, -1, 3])).tolist()
      [2.5, 0.5, 0.0, 0.0]
    """

    def found(shard, x_N, ids_B):
        # Ids before the shard become huge, so that they are outside like those after it. So all parts but one add 0.
        return shard.total(x_N.at[ids_B - shard.first].get(mode="fill", fill_value=0))

    return on_shards(found, x_N, jnp.asarray(ids_B).astype(np.uint32), summed=True)
