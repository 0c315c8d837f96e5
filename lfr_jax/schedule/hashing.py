"""Integer hashes: every bit of the result depends on every bit of the input.

All of them are bijections: different inputs give different results. They are not cryptographic.
"""

import numpy as np

FACTORS = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)  # MurmurHash3's


def mix32(x):
    """Hashes 32-bit numbers: the finaliser of MurmurHash3.

    Args:
      x: uint32[...], an array of numpy or of jax.

    Returns:
      uint32[...] of the same kind. 0 stays 0.

    Examples:
      >>> import numpy as np
      >>> from lfr_jax import schedule
      >>> schedule.mix32(np.array([0, 1, 2], np.uint32)).tolist()
      [0, 1364076727, 821347078]

    References:
      Appleby 2011, MurmurHash3, function fmix32.
    """
    x = (x ^ (x >> 16)) * FACTORS[0]
    x = (x ^ (x >> 13)) * FACTORS[1]
    return x ^ (x >> 16)


def mix64(x: np.ndarray) -> np.ndarray:
    """Hashes 64-bit numbers: the finaliser of MurmurHash3.

    Args:
      x: integers[...], an array of numpy; negative ones count modulo 2**64.

    Returns:
      uint64[...]. 0 stays 0.

    Examples:
      >>> import numpy as np
      >>> from lfr_jax import schedule
      >>> schedule.mix64(np.array([0, 1])).tolist()
      [0, 12994781566227106604]

    References:
      Appleby 2011, MurmurHash3, function fmix64.
    """
    return _mixed64(x, (33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53), 33)


def splitmix64(x: np.ndarray) -> np.ndarray:
    """uint64[...]: hashes of 64-bit numbers, as `mix64`, with the constants of SplitMix64 (Steele, Lea, Flood 2014)."""
    return _mixed64(x, (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), 31)


def _mixed64(x, first: tuple[int, int], second: tuple[int, int], last: int):
    x = x.astype(np.uint64)  # a copy, which is then changed in place: texts have many tokens
    for shift, factor in (first, second):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(last)
    return x
