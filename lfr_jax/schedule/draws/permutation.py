"""Permutations of 0, 1, ..., n−1 that follow from a key, with random access, in numpy."""

import functools
import math

import numpy as np

from lfr_jax.schedule.hashing import FACTORS
from lfr_jax.schedule.randomness import WORDS

ROUNDS = WORDS  # each round takes a word of the key


@functools.lru_cache(maxsize=64)
def sides_for(size: int) -> tuple[int, int]:
    """The sides (a, b) of the grid that `permute` works on: about equal, and a·b just above `size`.

    The grid has at least 64 cells. On a smaller one, eight rounds make some permutations visibly
    likelier than others.
    """
    size = max(size, 64)
    root = math.isqrt(size)
    # The best of 64 widths leaves about root/64 cells unused. For the largest sizes one of them is
    # 2**16, so that a·b never exceeds 2**32.
    b = min(range(root + 1, max(7, root // 2, root - 63), -1), key=lambda b: -size % b)
    return -(-size // b), b


def permute(x: np.ndarray, size: int | np.ndarray, keys: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Maps each x in [0, size) to its image under a permutation of [0, size).

    A Feistel network permutes [0, a·b). If an image falls outside [0, size), the network is
    applied to it again, until it falls inside: so the whole is a permutation of [0, size). This is
    rarely needed, as a·b is just above the size.

    Args:
      x: uint32[E], each below `size`.
      size: n < 2**32; or uint32[E], if the elements belong to permutations of several sizes.
      keys: uint32[ROUNDS], of `numpy_key`; or uint32[ROUNDS, E], if each element has its own key.
      sides: `sides_for` the largest size in the call.

    Returns:
      uint32[E].

    References:
      Luby & Rackoff 1988 (the network); Black & Rogaway 2002 (a network on Z_a × Z_b with
      additions, and cycle walking).

    Examples:
      >>> import numpy as np
      >>> from lfr_jax.schedule import numpy_key
      >>> x = np.arange(6, dtype=np.uint32)
      >>> sorted(permute(x, 6, numpy_key(b"example", 0, 0, 0), sides_for(6)).tolist())
      [0, 1, 2, 3, 4, 5]
    """
    y = feistel(x, keys, sides)
    (walking,) = np.nonzero(y >= size)
    while walking.size:
        y_out = feistel(y[walking], keys if keys.ndim == 1 else keys[:, walking], sides)
        y[walking] = y_out
        walking = walking[y_out >= (size if np.ndim(size) == 0 else size[walking])]
    return y


def feistel(x: np.ndarray, keys: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """A permutation of [0, a·b). Each x is two digits; in turn, the hash of one digit is added to the other."""
    a, b = sides
    high = x // np.uint32(b)
    low = x - high * np.uint32(b)
    for i, key in enumerate(keys):
        if i % 2:
            add(low, round_hash(high, key, b), b)
        else:
            add(high, round_hash(low, key, a), a)
    high *= np.uint32(b)
    high += low
    return high


def add(digit: np.ndarray, x: np.ndarray, side: int) -> None:
    """digit += x modulo `side`. Both are below `side`."""
    digit += x
    np.subtract(digit, np.uint32(side), out=x)  # where this is negative, it wraps round and is the larger
    np.minimum(digit, x, out=digit)


def round_hash(x: np.ndarray, key: np.ndarray, side: int) -> np.ndarray:
    """A hash of x and the key, in [0, side): half the work of `mix32`, which eight rounds make up for.

    The division by ⌈2**32 / side⌉ gives the top digit to the base `side`. The largest value may be
    rarer than the others; the sum of the rounds evens that out.
    """
    h = x + key
    h *= FACTORS[0]
    h ^= h >> np.uint32(16)
    h *= FACTORS[1]
    h //= np.uint32(-(-(1 << 32) // side))
    return h
