"""Groups of blocks, such as domains and clusters, and means over each group."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.shards import on_shards
from lfr_jax.schedule.types import BlockInfo, required

MOST_GROUPS = 1 << 20  # or as many as there are blocks, if these are more: arrays have a number for each group
PRECISION = 24  # bits of a number, as many as a float32 has


class Groups(NamedTuple):
    """Which of G groups each of N blocks belongs to. G is a shape, and so static."""

    of: jax.Array  # i32[N]: number of each block's group, 0 to G−1
    size: jax.Array  # i32[G]: how many blocks each group has, below 2**31; may be 0


def groups_of(info: BlockInfo, name: str, policy: str) -> Groups:
    """Reads groups from an array of `BlockInfo`. Call it in `init`, outside of jit.

    Args:
      info: of N blocks.
      name: of the array, "domain", "cluster" or "length".
      policy: its name, for errors.

    Returns:
      `Groups`, as many as the largest number says, plus one.

    Raises:
      MissingInfo: the array is None.
      ValueError: a number is negative, no integer or far above the number of groups, or the array is traced.

    Examples:
      >>> from lfr_jax import schedule
      >>> groups = schedule.groups_of(schedule.BlockInfo(4, domain=[0, 2, 2, 0]), "domain", policy="mine")
      >>> groups.of.tolist(), groups.size.tolist()
      ([0, 2, 2, 0], [2, 0, 2])
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
    if of_N.max() >= max(MOST_GROUPS, len(of_N)):
        raise ValueError(
            f"BlockInfo.{name} has a group {of_N.max()}, and {len(of_N)} blocks: number the groups from 0, without gaps"
        )
    return Groups(jnp.asarray(of_N, jnp.int32), jnp.asarray(np.bincount(of_N), jnp.int32))


def group_means(x_N: jax.Array, groups: Groups) -> tuple[jax.Array, jax.Array]:
    r"""The mean of each group's numbers. Their order does not change a bit of it.

    The numbers are rounded to multiples of

    $$ u = 2^{-24} \min \{ 2^e : |x_i| < 2^e \text{ for all } i \} $$

    and added up as integers. So the result is the same on any mesh, and on GPUs, which add in no
    fixed order. It is the mean of the rounded numbers, rounded to a multiple of u: for
    losses below 16 nats, its error is below a millionth.

    Args:
      x_N: f32[N]. NaN and infinite numbers are left out.
      groups: of the N blocks.

    Returns:
      f32[G] the means, NaN for a group without a number; i32[G] how many numbers each group has.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> groups = schedule.Groups(jnp.array([0, 1, 0, 1]), jnp.array([2, 2]))
      >>> means_G, counts_G = schedule.group_means(jnp.array([2.5, 7.0, 3.5, jnp.nan]), groups)
      >>> means_G.tolist(), counts_G.tolist()
      ([3.0, 7.0], [2, 1])
    """
    return means_of(x_N, groups.of, groups.size.shape[0])


@functools.partial(jax.jit, static_argnums=2)
def means_of(x_N: jax.Array, of_N: jax.Array, num_groups: int) -> tuple[jax.Array, jax.Array]:
    """`group_means` of the groups 0 to `num_groups` − 1. Blocks of other groups are left out."""
    x_N = jnp.asarray(x_N, jnp.float32)
    exponent = jnp.frexp(jnp.max(jnp.abs(x_N), where=jnp.isfinite(x_N), initial=0.0))[1]
    exponent = jnp.maximum(exponent, -100)  # or the unit would have no reciprocal in float32
    # Sums are kept digit by digit. Digits are so narrow that a sum of N of them fits into uint32.
    width = min(PRECISION + 1, max(1, 32 - x_N.size.bit_length()))
    num_digits = -(-(PRECISION + 1) // width)
    shifts = jnp.arange(num_digits, dtype=jnp.uint32) * np.uint32(width)

    def sums(shard, blocks, others):
        (x_N, of_N), (per_unit, shifts) = blocks, others
        known_N = jnp.isfinite(x_N)
        units_N = jnp.round(x_N * per_unit).astype(jnp.int32)
        units_N = (units_N + (1 << PRECISION)).astype(jnp.uint32)  # 1 to 2**25 − 1

        def total(y_N):
            return jax.ops.segment_sum(jnp.where(known_N, y_N, np.uint32(0)), of_N, num_groups)

        # One digit after the other, or the digits of all blocks would be in memory at once.
        digits_DxG = jax.lax.map(lambda shift: total((units_N >> shift) & np.uint32((1 << width) - 1)), shifts)
        return shard.total((total(jnp.ones_like(units_N)), digits_DxG))

    per_unit = jnp.ldexp(jnp.float32(1), PRECISION - exponent)  # a power of two: products are exact
    counts_G, digits_DxG = on_shards(sums, (x_N, of_N), (per_unit, shifts), summed=True)
    units_G = divided(digits_DxG, jnp.maximum(counts_G, 1), width).astype(jnp.int32) - (1 << PRECISION)
    means_G = jnp.ldexp(units_G.astype(jnp.float32), exponent - PRECISION)
    return jnp.where(counts_G > 0, means_G, jnp.nan), counts_G.astype(jnp.int32)


def divided(digits_DxG: jax.Array, counts_G: jax.Array, width: int) -> jax.Array:
    """u32[G]: Σ_d digits[d] · 2**(d·width) / counts, rounded to the nearest integer. All steps fit into uint32."""
    base = np.uint32((1 << width) - 1)
    carry_G, proper = counts_G // 2, []
    for digit_G in digits_DxG:
        digit_G = digit_G + carry_G
        proper.append(digit_G & base)
        carry_G = digit_G >> np.uint32(width)
    quotient_G, rest_G = jnp.zeros_like(counts_G), carry_G
    for digit_G in reversed(proper):  # long division; the rest is smaller than the count
        rest_G = (rest_G << np.uint32(width)) | digit_G
        quotient_G = (quotient_G << np.uint32(width)) | (rest_G // counts_G)
        rest_G = rest_G % counts_G
    return quotient_G


def per_block(values_G: jax.Array, groups: Groups) -> jax.Array:
    """Gives each block the value of its group.

    Args:
      values_G: [G], one value for each group.
      groups: of N blocks.

    Returns:
      [N], sharded as the blocks are.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> groups = schedule.Groups(jnp.array([0, 1, 0, 1]), jnp.array([2, 2]))
      >>> schedule.per_block(jnp.array([0.25, 0.75]), groups).tolist()
      [0.25, 0.75, 0.25, 0.75]
    """
    return on_shards(lambda _, of_N, values_G: values_G[of_N], groups.of, values_G)


def fill(x_N: jax.Array, groups: Groups) -> jax.Array:
    """f32[N]: the numbers; NaN becomes the mean of the group, and stays NaN if the group has no number."""
    means_G, _ = group_means(x_N, groups)
    return jnp.where(jnp.isnan(x_N), per_block(means_G, groups), x_N)


BITS = 31  # a rate is rounded to so many bits, the largest being just below 2**31 units


@jax.jit  # one compilation where it is called outside of a jit
def relative(rate_N: jax.Array) -> jax.Array:
    """f32[N]: the rates divided by their mean, the same bits on any mesh.

    The mean is a sum of integers, in units of about 2**-31 of the largest rate, so its order does not matter.
    """
    # Scaled to below 1, by a power of two, which is exact.
    scaled_N = jnp.ldexp(rate_N, -jnp.frexp(jnp.max(rate_N))[1])
    units_N = (scaled_N * np.float32(1 << BITS)).astype(jnp.uint32)
    # Digits are so narrow that a sum of N of them fits into uint32.
    width = max(1, 32 - rate_N.size.bit_length())
    total = jnp.float32(0)
    for low in reversed(range(0, BITS + 1, width)):
        digit_N = (units_N >> np.uint32(low)) & np.uint32((1 << width) - 1)
        total += jnp.sum(digit_N, dtype=jnp.uint32).astype(jnp.float32) * np.float32(2.0 ** (low - BITS))
    return scaled_N * (rate_N.size / total)
