"""Groups of blocks (domains, clusters), and means over them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.types import BlockInfo, required


class Groups(NamedTuple):
    """Which group each of N blocks belongs to. How many there are is a shape, and so static."""

    of: jax.Array  # i32[N]: 0 to G−1
    size: jax.Array  # i32[G]: blocks in each; 0 for a number that none bears


def groups_of(info: BlockInfo, name: str, policy: str) -> Groups:
    """The groups that `BlockInfo.<name>` numbers.

    Raises:
      ValueError: the array is missing, holds anything but integers from 0, or is traced.
    """
    of_N = required(info, name, policy)
    if isinstance(of_N, jax.core.Tracer):
        raise ValueError(
            f"BlockInfo.{name} is traced, but the number of groups must be known: call init outside of jit, "
            "or let the jitted function close over the BlockInfo"
        )
    of_N = np.asarray(of_N)
    if not np.issubdtype(of_N.dtype, np.integer) or of_N.min() < 0:
        raise ValueError(f"BlockInfo.{name} holds {of_N.dtype}, the least {of_N.min()}; expected integers from 0")
    return Groups(jnp.asarray(of_N, jnp.int32), jnp.asarray(np.bincount(of_N), jnp.int32))


def group_means(x_N: jax.Array, groups: Groups) -> tuple[jax.Array, jax.Array]:
    """The mean of each group's numbers, NaN left out.

    Returns:
      f32[G] the means, NaN for a group with no number; i32[G] how many numbers each has.
    """
    known_N = ~jnp.isnan(x_N)
    num_groups = groups.size.shape[0]
    sums_G = jax.ops.segment_sum(jnp.where(known_N, x_N, 0.0), groups.of, num_groups)
    counts_G = jax.ops.segment_sum(known_N.astype(jnp.int32), groups.of, num_groups)
    return sums_G / counts_G, counts_G


def fill(x_N: jax.Array, groups: Groups) -> jax.Array:
    """f32[N]: the numbers, NaN replaced by the mean of the group; NaN stays where the group has none."""
    means_G, _ = group_means(x_N, groups)
    return jnp.where(jnp.isnan(x_N), means_G[groups.of], x_N)
