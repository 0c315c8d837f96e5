"""Groups of blocks (domains, clusters), and means over them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.shards import on_shards
from lfr_jax.schedule.types import BlockInfo, required

PRECISION = 24  # bits of a number, as many as a float32 has


class Groups(NamedTuple):
    """Which group each of N blocks belongs to. How many there are is a shape, and so static."""

    of: jax.Array  # i32[N]: 0 to G−1
    size: jax.Array  # i32[G]: blocks in each, below 2**31; 0 for a number that none bears


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
    r"""The mean of each group's numbers, the same to the last bit whatever their order.

    The numbers are rounded to multiples of

    $$ u = 2^{-24} \min \{ 2^e : |x_i| < 2^e \text{ for all } i \} $$

    and added up as integers, so on any mesh, and on GPUs, which add in no fixed order, the
    result is the same. It is the mean of the rounded numbers, rounded to a multiple of u: for
    losses below 16 nats, right to a millionth.

    Args:
      x_N: f32[N]; NaN and infinite numbers are left out.
      groups: of the N blocks.

    Returns:
      f32[G] the means, NaN for a group with no number; i32[G] how many numbers each has.

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
    """`group_means` of the groups 0 to `num_groups` − 1; blocks of any other are left out."""
    x_N = jnp.asarray(x_N, jnp.float32)
    exponent = jnp.frexp(jnp.max(jnp.abs(x_N), where=jnp.isfinite(x_N), initial=0.0))[1]
    exponent = jnp.maximum(exponent, -100)  # the unit of smaller numbers has no reciprocal
    # Sums are kept in digits so narrow that N of them fit into uint32.
    width = min(PRECISION + 1, max(1, 32 - x_N.size.bit_length()))
    num_digits = -(-(PRECISION + 1) // width)
    places = jnp.arange(num_digits, dtype=jnp.uint32) * np.uint32(width)

    def sums(shard, blocks, others):
        (x_N, of_N), (per_unit, places) = blocks, others
        known_N = jnp.isfinite(x_N)
        whole_N = jnp.round(x_N * per_unit).astype(jnp.int32)
        whole_N = (whole_N + (1 << PRECISION)).astype(jnp.uint32)  # 1 to 2**25 − 1

        def total(y_N):
            return jax.ops.segment_sum(jnp.where(known_N, y_N, np.uint32(0)), of_N, num_groups)

        # Digit by digit, or all of them would be in memory at once.
        digits_DxG = jax.lax.map(lambda place: total((whole_N >> place) & np.uint32((1 << width) - 1)), places)
        return shard.total((total(jnp.ones_like(whole_N)), digits_DxG))

    per_unit = jnp.ldexp(jnp.float32(1), PRECISION - exponent)  # a power of two: products are exact
    counts_G, digits_DxG = on_shards(sums, (x_N, of_N), (per_unit, places), summed=True)
    whole_G = divided(digits_DxG, jnp.maximum(counts_G, 1), width).astype(jnp.int32) - (1 << PRECISION)
    means_G = jnp.ldexp(whole_G.astype(jnp.float32), exponent - PRECISION)
    return jnp.where(counts_G > 0, means_G, jnp.nan), counts_G.astype(jnp.int32)


def divided(digits_DxG: jax.Array, counts_G: jax.Array, width: int) -> jax.Array:
    """u32[G]: Σ_d digits[d] · 2**(d·width) / counts, to the nearest whole, each step within uint32."""
    base = np.uint32((1 << width) - 1)
    carry_G, proper = counts_G // 2, []
    for digit_G in digits_DxG:
        digit_G = digit_G + carry_G
        proper.append(digit_G & base)
        carry_G = digit_G >> np.uint32(width)
    quotient_G, rest_G = jnp.zeros_like(counts_G), carry_G
    for digit_G in reversed(proper):  # long division; the rest is below the count
        rest_G = (rest_G << np.uint32(width)) | digit_G
        quotient_G = (quotient_G << np.uint32(width)) | (rest_G // counts_G)
        rest_G = rest_G % counts_G
    return quotient_G


def at(values_G: jax.Array, groups: Groups) -> jax.Array:
    """[N]: for each block the value of its group, sharded as the blocks are."""
    return on_shards(lambda _, of_N, values_G: values_G[of_N], groups.of, values_G)


def fill(x_N: jax.Array, groups: Groups) -> jax.Array:
    """f32[N]: the numbers, NaN replaced by the mean of the group; NaN stays where the group has none."""
    means_G, _ = group_means(x_N, groups)
    return jnp.where(jnp.isnan(x_N), at(means_G, groups), x_N)


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
