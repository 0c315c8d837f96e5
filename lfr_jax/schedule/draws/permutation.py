"""Keyed permutations of 0, 1, ..., n−1 with random access, in numpy."""

import functools
import hashlib
import math
import struct

import numpy as np

ROUNDS = 8


@functools.lru_cache(maxsize=64)  # a batch of draws needs the keys of the batch before
def round_keys(purpose: bytes, seed: int, phase: int, number: int) -> np.ndarray:
    """uint32[ROUNDS], read-only: a permutation's key, unlike that of any other arguments.

    Hashing fixed-width fields is what keeps seed 0, phase 1 apart from seed 1, phase 0.

    Args:
      purpose: up to 16 bytes.
      seed, phase, number: signed 64-bit integers.
    """
    packed = struct.pack("<qqq", seed, phase, number)
    digest = hashlib.blake2b(packed, digest_size=4 * ROUNDS, person=purpose).digest()
    keys = np.frombuffer(digest, "<u4").astype(np.uint32)
    keys.flags.writeable = False
    return keys


@functools.lru_cache(maxsize=64)
def sides_for(size: int) -> tuple[int, int]:
    """(a, b) about equal, a·b the least found from n = `size` on: `permute` works on a grid of a × b.

    The grid has at least 64 places. On fewer, eight rounds leave some permutations visibly
    likelier than others.
    """
    size = max(size, 64)
    root = math.isqrt(size)
    # Of 64 widths the best leaves about root/64 places over. 2**16 is among them for the
    # largest sizes, so that a·b never exceeds 2**32.
    b = min(range(root + 1, max(7, root // 2, root - 63), -1), key=lambda b: -size % b)
    return -(-size // b), b


def permute(x: np.ndarray, size: int | np.ndarray, keys: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Maps each x in [0, size) to its place in a permutation of [0, size).

    A Feistel network permutes [0, a·b). Where its value falls outside [0, size), it is
    applied again until it does not, which leaves a permutation of [0, size). That is rare,
    as a·b is just above the size.

    Args:
      x: uint32[E], each below `size`.
      size: n < 2**32, or uint32[E] where the elements belong to permutations of several sizes.
      keys: uint32[ROUNDS], or uint32[ROUNDS, E] where they belong to several keys.
      sides: `sides_for` the largest size that shares this key schedule.

    Returns:
      uint32[E].

    References:
      Luby & Rackoff 1988 (the network); Black & Rogaway 2002 (a network on Z_a × Z_b with
      additions, and cycle walking).

    Examples:
      >>> import numpy as np
      >>> x = np.arange(6, dtype=np.uint32)
      >>> sorted(permute(x, 6, round_keys(b"example", 0, 0, 0), sides_for(6)).tolist())
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
    """A permutation of [0, a·b): to each of two digits in turn, a hash of the other is added, modulo its side."""
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
    """digit += x modulo `side`, both below it."""
    digit += x
    np.subtract(digit, np.uint32(side), out=x)  # where this wraps round, it is the larger
    np.minimum(digit, x, out=digit)


def round_hash(x: np.ndarray, key: np.ndarray, side: int) -> np.ndarray:
    """A hash of x and key in [0, side): two multiplications, with MurmurHash3's constants.

    Dividing by ⌈2**32 / side⌉ takes the top digit to the base `side`. One value may come up
    more rarely than the others; the sum of the rounds evens that out.
    """
    h = x + key
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0xC2B2AE35)
    h //= np.uint32(-(-(1 << 32) // side))
    return h
