"""Keyed permutations of 0, 1, ..., n−1 with random access, in numpy."""

import hashlib
import struct

import numpy as np

ROUNDS = 8


def round_keys(purpose: bytes, seed: int, phase: int, number: int) -> np.ndarray:
    """uint32[ROUNDS]: a permutation's key, unlike that of any other arguments.

    Hashing fixed-width fields is what keeps seed 0, phase 1 apart from seed 1, phase 0.

    Args:
      purpose: up to 16 bytes.
      seed, phase, number: signed 64-bit integers.
    """
    packed = struct.pack("<qqq", seed, phase, number)
    digest = hashlib.blake2b(packed, digest_size=4 * ROUNDS, person=purpose).digest()
    return np.frombuffer(digest, "<u4").astype(np.uint32)


def bits_for(size: int) -> int:
    """How many bits `permute` works on for n = `size`: enough for n − 1, and at least six.

    On fewer, eight rounds leave some permutations visibly likelier than others.
    """
    return max(6, (size - 1).bit_length())


def permute(x: np.ndarray, size: int | np.ndarray, keys: np.ndarray, bits: int) -> np.ndarray:
    """Maps each x in [0, size) to its place in a permutation of [0, size).

    A Feistel network permutes [0, 2**bits). Where its value falls outside [0, size), it is
    applied again until it does not, which leaves a permutation of [0, size).

    Args:
      x: uint32[E], each below `size`.
      size: n, or uint32[E] where the elements belong to permutations of several sizes.
      keys: uint32[ROUNDS], or uint32[ROUNDS, E] where they belong to several keys.
      bits: `bits_for` the largest size that shares this key schedule.

    Returns:
      uint32[E].

    References:
      Luby & Rackoff 1988 (the network); Black & Rogaway 2002 (cycle walking).

    Examples:
      >>> import numpy as np
      >>> x = np.arange(6, dtype=np.uint32)
      >>> sorted(permute(x, 6, round_keys(b"example", 0, 0, 0), bits_for(6)).tolist())
      [0, 1, 2, 3, 4, 5]
    """
    y = feistel(x, keys, bits)
    (walking,) = np.nonzero(y >= size)
    while walking.size:
        y_out = feistel(y[walking], keys if keys.ndim == 1 else keys[:, walking], bits)
        y[walking] = y_out
        walking = walking[y_out >= (size if np.ndim(size) == 0 else size[walking])]
    return y


def feistel(x: np.ndarray, keys: np.ndarray, bits: int) -> np.ndarray:
    """A permutation of [0, 2**bits), 2 <= bits <= 32: each half in turn XORed with a hash of the other."""
    low_bits = bits // 2
    low, high = x & np.uint32((1 << low_bits) - 1), x >> np.uint32(low_bits)
    for i, key in enumerate(keys):
        if i % 2:
            low ^= round_hash(high, key, low_bits)
        else:
            high ^= round_hash(low, key, bits - low_bits)
    high <<= np.uint32(low_bits)
    high |= low
    return high


def round_hash(x: np.ndarray, key: np.ndarray, bits: int) -> np.ndarray:
    """The top `bits` bits of a hash of x and key: two multiplications, with MurmurHash3's constants."""
    h = x + key
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0xC2B2AE35)
    h >>= np.uint32(32 - bits)
    return h
