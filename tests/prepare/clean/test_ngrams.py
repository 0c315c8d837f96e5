"""Hashes of n-grams: equal where the n-grams are, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfr_jax.prepare.clean import ngrams


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_hashes_are_equal_where_n_grams_are(n):
    """Catches: an order that does not count; n off by one; a multiplier that loses bits."""
    tokens = np.random.default_rng(n).integers(0, 3, 2000, np.int32)
    tuples = [tuple(tokens[i : i + n].tolist()) for i in range(len(tokens) - n + 1)]
    found = ngrams.hashes(tokens, n)
    assert found.dtype == np.uint64 and len(found) == len(tuples)
    assert len(set(found.tolist())) == len(set(tuples)) == len(set(zip(found.tolist(), tuples)))


def test_hashes_fill_all_their_bits():
    """Catches: hashes that are small numbers, of which the first bits tell nothing."""
    found = ngrams.hashes(np.arange(10_000), 2)
    for shift in (0, 32, 54):
        share_B = np.bincount((found >> np.uint64(shift)).astype(np.int64) & 1023, minlength=1024)
        assert share_B.max() < 40


def test_fewer_tokens_than_n_have_none():
    """Catches: a negative count of n-grams."""
    assert len(ngrams.hashes(np.arange(4), 5)) == 0 and len(ngrams.hashes(np.arange(5), 5)) == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 6))
def test_none_crosses_the_end_of_its_run(lengths, n):
    """Catches: an n-gram of two runs; one lost at an end, at a run shorter than n, or at the last token of all."""
    tokens = np.arange(sum(lengths))
    begin_P, hash_P = ngrams.of_spans(tokens, np.array(lengths), n)
    stops = np.cumsum(lengths)
    inside = [i for start, stop in zip(stops - lengths, stops) for i in range(start, stop - n + 1)]
    assert begin_P.tolist() == inside
    assert hash_P.tolist() == [ngrams.hashes(tokens[i : i + n], n)[0] for i in inside]
