"""Random tokens, as frequent as in a store."""

import numpy as np

from lfr_jax.data.store import Store

AT_ONCE = 4 << 20  # tokens read at once


def frequencies(store: Store) -> np.ndarray:
    """float64[V]: the share of each id among a store's tokens, where end-of-text does not count and has 0.

    Raises:
      ValueError: the store holds nothing but end-of-text.
    """
    count_V = np.zeros(store.vocab_size, np.int64)
    for first, part in zip(store.first_P, store.parts):
        for start in range(0, part.tokens, AT_ONCE):
            (tokens,) = store.read(np.array([first + start]), min(AT_ONCE, part.tokens - start))
            count_V += np.bincount(tokens, minlength=store.vocab_size)
    count_V[store.eos_id] = 0
    if not count_V.any():
        raise ValueError(f"{store.path}: found nothing but end-of-text (id {store.eos_id}), expected text")
    return count_V / count_V.sum()


def replaced(tokens: np.ndarray, where: np.ndarray, frequency_V: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The tokens, of any shape; where bool is true, random ones in their place. A few of these are equal by chance.

    >>> replaced(np.array([5, 6, 7]), np.array([True, False, True]), np.array([0.0, 1.0]), np.random.default_rng(0))
    array([1, 6, 1])
    """
    changed = tokens.copy()
    changed[where] = rng.choice(len(frequency_V), int(where.sum()), p=frequency_V)
    return changed
