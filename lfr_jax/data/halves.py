"""Halves of the held-out documents: one to choose with, such as settings, and one to report what was chosen."""

import hashlib
import itertools

import numpy as np

from lfr_jax.data.store import Store

HALVES = ("choose", "report")


def halves(store: Store) -> np.ndarray:
    """The half of each document: str[D], of `HALVES`.

    It depends on nothing but the document's tokens. So it is the same in every store that has the document, wherever it
    lies there, and copies of a document are in one half. All tokens of the store are read.
    """
    edges = [*store.doc_starts.tolist(), store.card.tokens]
    return np.array([half(store.read(np.array([a]), b - a)[0]) for a, b in itertools.pairwise(edges)])


def half(tokens_T: np.ndarray) -> str:
    """The half of a document of these tokens.

    >>> half(np.array([1])), half(np.array([2]))
    ('report', 'choose')
    """
    return HALVES[hashlib.sha256(tokens_T.astype("<i4").tobytes()).digest()[0] % 2]
