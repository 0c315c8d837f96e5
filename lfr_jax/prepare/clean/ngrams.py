"""64-bit hashes of the n-grams of token ids, many at once."""

from collections.abc import Iterable

import numpy as np

from lfr_jax.schedule import mix64

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing modulo 2^64


def folded(columns: Iterable[np.ndarray]) -> np.ndarray:
    """uint64, one for each row of columns of mixed numbers: their polynomial in `MULTIPLIER`, mixed once more."""
    total = np.uint64(0)
    for column in columns:
        total = total * MULTIPLIER + column
    return mix64(total)


def hashes(tokens: np.ndarray, n: int) -> np.ndarray:
    """uint64[len(tokens) − n + 1]: a hash of each n tokens in a row; none if there are fewer than n tokens."""
    count = len(tokens) - n + 1
    if count < 1:
        return np.empty(0, np.uint64)
    number = mix64(tokens)
    return folded(number[k : k + count] for k in range(n))


def of_runs(tokens: np.ndarray, lengths: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of runs that lie one after the other in `tokens`, none of which crosses the end of its run.

    Returns:
      int64[P], where each begins, in order; uint64[P], its hash.
    """
    hash_T = hashes(tokens, n)
    lies_within = np.ones(len(tokens), bool)
    # The last n − 1 tokens of a run begin none. Of a short run that reaches back into the run before, whose last they
    # are too.
    last = np.cumsum(lengths)[:, None] - np.arange(1, n)
    lies_within[last[last >= 0]] = False
    (begin_P,) = np.nonzero(lies_within[: len(hash_T)])
    return begin_P, hash_T[begin_P]
