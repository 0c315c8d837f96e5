"""Choosing exactly k of N blocks in O(N), with the same result on one device and on many."""

import operator

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.shards import Shard, on_shards
from lfr_jax.schedule.hashing import mix32

DIGIT = 4  # bits of the threshold that are found in one pass over the scores


def hardest(scores_N: jax.Array, k: int | jax.Array) -> jax.Array:
    r"""Marks exactly the `k` largest of N scores.

    Let $u$ be the map of float32 to uint32 that keeps the order. The threshold is

    $$ t = \max \{ t : |\{i : u(s_i) \ge t\}| \ge k \} $$

    It is found four bits at a time, from the top: each of eight passes over the array counts
    for all values of the next four bits. Blocks above $t$ are marked. Blocks equal to $t$ are marked
    in the order of a hash of their index, until there are k; a second search finds how far.
    So ties always fall the same way, and favour no part of the corpus.

    There is no sort, gather or prefix sum, only counts. So a sharded array, over
    axes of either type, gives the same bits as an unsharded one.

    −0 equals +0, and +inf is larger than every number. NaN stands for "never measured" and is larger than
    +inf: a block that was not measured is assumed to be hard.

    Args:
      scores_N: f32[N], N < 2**32.
      k: how many to mark, 0 to N. It may be traced; then it is not checked.

    Returns:
      bool[N], exactly k of them True.

    Raises:
      ValueError: `scores_N` is not float32[N], or k is outside 0..N.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> schedule.hardest(jnp.array([2.5, 3.5, jnp.nan, 3.0]), 2).tolist()
      [False, True, True, False]

    References:
      Appleby 2011, MurmurHash3 (the hash, see `mix32`).
    """
    scores_N = jnp.asarray(scores_N)
    if scores_N.ndim != 1 or scores_N.dtype != jnp.float32:
        raise ValueError(f"scores are {scores_N.dtype}{list(scores_N.shape)}, expected float32[N]")
    if not isinstance(k, jax.core.Tracer):
        k = operator.index(k)
        if not 0 <= k <= scores_N.size:
            raise ValueError(f"k is {k}, expected 0 to {scores_N.size}, the number of scores")
    if scores_N.size == 0:
        return jnp.zeros(0, bool)
    return mark(scores_N, jnp.asarray(k, jnp.uint32))


@jax.jit  # or every call outside a jit would compile the loops again
def mark(scores_N: jax.Array, k: jax.Array) -> jax.Array:
    """bool[N]: the k largest."""
    return on_shards(mark_shard, scores_N, k)


def mark_shard(shard: Shard, scores_N: jax.Array, k: jax.Array) -> jax.Array:
    """bool[N]: this shard's part of the k largest of all shards."""
    keys_N = ordered_bits(scores_N)
    threshold = kth_largest(keys_N, k, shard)
    above_N, tied_N = keys_N > threshold, keys_N == threshold
    num_above, num_tied = counts([above_N, tied_N], shard)
    num_tied_kept = k - num_above

    def chosen_N():
        # Blocks that are not tied get 0, which the search never counts.
        ranks_N = jnp.where(tied_N, index_hash(scores_N.size, shard.first), np.uint32(0))
        return tied_N & (ranks_N >= kth_largest(ranks_N, num_tied_kept, shard)) & (num_tied_kept > 0)

    return above_N | jax.lax.cond(num_tied == num_tied_kept, lambda: tied_N, chosen_N)


def ordered_bits(x_N: jax.Array) -> jax.Array:
    """u32[N] in the order of the floats: −inf < ... < −0 = +0 < ... < +inf < NaN."""
    # Only the bits are compared: comparing floats may flush subnormal numbers to zero.
    bits_N = jax.lax.bitcast_convert_type(x_N, jnp.uint32)
    sign, inf = np.uint32(0x80000000), np.uint32(0x7F800000)
    is_nan_N = (bits_N & ~sign) > inf
    bits_N = jnp.where(bits_N == sign, np.uint32(0), bits_N)
    bits_N = jnp.where(bits_N >= sign, ~bits_N, bits_N | sign)
    return jnp.where(is_nan_N, np.uint32(0xFFFFFFFF), bits_N)


def kth_largest(keys_N: jax.Array, k: jax.Array, shard: Shard) -> jax.Array:
    """u32[]: the largest t with at least k keys >= t; 0 if fewer than k keys exceed 0."""

    def next_digit(i, t):
        shift = np.uint32(32 - DIGIT) - i.astype(jnp.uint32) * np.uint32(DIGIT)
        candidates = [t + (np.uint32(digit) << shift) for digit in range(1, 1 << DIGIT)]
        enough = [n >= k for n in counts([keys_N >= c for c in candidates], shard)]
        return t + (sum(x.astype(jnp.uint32) for x in enough) << shift)

    return jax.lax.fori_loop(0, 32 // DIGIT, next_digit, jnp.uint32(0))


def index_hash(size: int, first: int | jax.Array = 0) -> jax.Array:
    """u32[size]: hashes of first, first + 1, ...; all of them differ."""
    index_N = jnp.arange(size, dtype=jnp.uint32) + jnp.asarray(first, jnp.uint32)
    return mix32(index_N ^ np.uint32(0x9E3779B9))  # any constant: without it, 0 would be hashed to 0, the last rank


def counts(masks_N: list[jax.Array], shard: Shard) -> list[jax.Array]:
    """u32[] for each mask: how many are True, over all shards. One pass over memory counts all masks."""
    ones_N = [mask_N.astype(jnp.uint32) for mask_N in masks_N]
    zeros = [np.uint32(0)] * len(masks_N)
    return shard.total(jax.lax.reduce(ones_N, zeros, lambda a, b: [x + y for x, y in zip(a, b)], (0,)))


def random_blocks(key: jax.Array, like_N: jax.Array, k: int) -> jax.Array:
    """Marks k random blocks; each set of k is equally likely.

    Args:
      key: of `jax_key`.
      like_N: [N], an array of the state; only its length and its sharding matter.
      k: how many, 0 to N.

    Returns:
      bool[N], exactly k of them True, sharded as `like_N`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> marked = schedule.random_blocks(schedule.jax_key(b"mine", seed=0, phase=1), jnp.zeros(6), k=2)
      >>> int(marked.sum())
      2
    """
    return hardest(jax.random.uniform(key, like_N.shape, jnp.float32, out_sharding=jax.typeof(like_N).sharding), k)
