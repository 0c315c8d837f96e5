"""Choosing exactly k of N blocks, in O(N), equally on one device and on many."""

import operator

import jax
import jax.numpy as jnp
import numpy as np


def hardest(scores_N: jax.Array, k: int | jax.Array) -> jax.Array:
    r"""Marks exactly the `k` largest of N scores.

    With $u$ the order-preserving map of float32 onto uint32, the threshold is

    $$ t = \max \{ t : |\{i : u(s_i) \ge t\}| \ge k \} $$

    found bit by bit from the top, in 32 counts over the array. Blocks above $t$ are marked;
    of those equal to $t$, the ones that a bijective hash of the index puts first, found by a
    second search. So ties fall the same way every time, but favour no region of the corpus.

    There is no sort, gather or prefix sum, only counts. Hence an array that is sharded, over
    axes of either type, gives the same bits as one that is not.

    −0 equals +0, and +inf exceeds every number. NaN stands for "never measured", and exceeds
    +inf: what has not been measured is assumed to be hard.

    Args:
      scores_N: f32[N].
      k: how many to mark, 0 to N; may be traced, and is then not checked.

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
      The hash is the finaliser of MurmurHash3 (Austin Appleby, 2011).
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
    return mark(scores_N, k)


@jax.jit  # or every call outside of a jit would compile the loops anew
def mark(scores_N: jax.Array, k: int | jax.Array) -> jax.Array:
    """bool[N]: the selection itself."""
    keys_N = ordered_bits(scores_N)
    threshold = kth_largest(keys_N, k)
    above_N, tied_N = keys_N > threshold, keys_N == threshold
    num_tied_kept = k - count(above_N)
    # Untied blocks get 0, which the search never counts.
    ranks_N = jnp.where(tied_N, index_hash(scores_N), np.uint32(0))
    tied_kept_N = tied_N & (ranks_N >= kth_largest(ranks_N, num_tied_kept)) & (num_tied_kept > 0)
    return above_N | tied_kept_N


def ordered_bits(x_N: jax.Array) -> jax.Array:
    """u32[N] in the order of the floats: −inf < ... < −0 = +0 < ... < +inf < NaN."""
    # Bits alone: float comparisons may flush subnormal numbers to zero.
    bits_N = jax.lax.bitcast_convert_type(x_N, jnp.uint32)
    sign, inf = np.uint32(0x80000000), np.uint32(0x7F800000)
    is_nan_N = (bits_N & ~sign) > inf
    bits_N = jnp.where(bits_N == sign, np.uint32(0), bits_N)
    bits_N = jnp.where(bits_N >= sign, ~bits_N, bits_N | sign)
    return jnp.where(is_nan_N, np.uint32(0xFFFFFFFF), bits_N)


def kth_largest(keys_N: jax.Array, k: int | jax.Array) -> jax.Array:
    """u32[]: the largest t with at least k keys >= t; 0 if fewer than k keys exceed 0."""

    def set_bit(i, t):
        candidate = t | (np.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(count(keys_N >= candidate) >= k, candidate, t)

    return jax.lax.fori_loop(0, 32, set_bit, jnp.uint32(0))


def index_hash(like_N: jax.Array) -> jax.Array:
    """u32[N], all different: a well-mixed bijection of 0, 1, ..., N−1, sharded like `like_N`."""
    x_N = jax.lax.broadcasted_iota(jnp.uint32, like_N.shape, 0, out_sharding=jax.typeof(like_N).sharding)
    x_N = x_N ^ np.uint32(0x9E3779B9)  # or 0 would be hashed to 0, the last place, always
    x_N = (x_N ^ (x_N >> 16)) * np.uint32(0x85EBCA6B)
    x_N = (x_N ^ (x_N >> 13)) * np.uint32(0xC2B2AE35)
    return x_N ^ (x_N >> 16)


def count(mask_N: jax.Array) -> jax.Array:
    """i32[]: how many are True."""
    return jnp.sum(mask_N, dtype=jnp.int32)
