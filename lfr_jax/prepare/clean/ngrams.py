"""64-bit hashes of the n-grams of token ids, many at once."""

from collections.abc import Iterable

import numpy as np

from lfr_jax.schedule import mix64

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplying by it modulo 2^64 is a bijection


def folded(columns: Iterable[np.ndarray]) -> np.ndarray:
    """uint64: one hash for each row of the columns, a mixed polynomial in `MULTIPLIER`. Columns are mixed numbers."""
    total = np.uint64(0)
    for column in columns:
        total = total * MULTIPLIER + column
    return mix64(total)


def hashes(tokens: np.ndarray, n: int) -> np.ndarray:
    """uint64[len(tokens) − n + 1]: a hash of each n consecutive tokens; empty if there are fewer than n."""
    count = len(tokens) - n + 1
    if count < 1:
        return np.empty(0, np.uint64)
    number = mix64(tokens)
    return folded(number[k : k + count] for k in range(n))


def of_spans(tokens: np.ndarray, lengths: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of spans that lie one after the other in `tokens`. No n-gram crosses the end of a span.

    Returns:
      int64[P], where each begins, sorted; uint64[P], its hash.
    """
    hash_T = hashes(tokens, n)
    lies_within = np.ones(len(tokens), bool)
    # No n-gram begins at the last n − 1 tokens of a span. For a short span, this reaches back into the span before:
    # there too, no n-gram begins so close to its end.
    last = np.cumsum(lengths)[:, None] - np.arange(1, n)
    lies_within[last[last >= 0]] = False
    (begin_P,) = np.nonzero(lies_within[: len(hash_T)])
    return begin_P, hash_T[begin_P]
