"""Halves of held-out documents: by their tokens alone."""

import numpy as np
import pytest
from helpers import write_side

from lfr_jax.data.halves import HALVES, half, halves

RANDOM = np.random.default_rng(0)
DOCUMENTS = [[*RANDOM.integers(0, 256, RANDOM.integers(1, 40)).tolist(), 256] for _ in range(300)]


def test_a_document_keeps_its_half_wherever_it_lies(tmp_path):
    """Catches: a hash of the position, of the number, of the source, of the bytes on disk (2 or 4 for each token), or
    of a document together with its neighbours."""
    one = write_side(tmp_path / "one", [("s", "d", DOCUMENTS)])
    order = np.random.default_rng(1).permutation(len(DOCUMENTS))
    moved = [DOCUMENTS[i] for i in order]
    sources = [("x", "e", moved[:7]), ("new", "f", [[9, 9, 256]]), ("y", "d", moved[7:])]
    other = write_side(tmp_path / "other", sources, vocab_size=70_000)
    found = np.delete(halves(other), 7)
    np.testing.assert_array_equal(found, halves(one)[order])


def test_the_halves_are_halves(tmp_path):
    """Catches: a hash with a bit that does not vary; all documents in one half; a name that is no half."""
    found = halves(write_side(tmp_path / "store", [("s", "d", DOCUMENTS)]))
    assert set(found) == set(HALVES) and found.shape == (300,)
    assert 125 <= np.sum(found == "choose") <= 175  # 3 standard deviations are 26
    rest = [half(np.array(document)) for document in DOCUMENTS if len(document) > 2]
    assert rest == [h for h, document in zip(found, DOCUMENTS) if len(document) > 2]


@pytest.mark.parametrize("tokens, expected", [([1], "report"), ([2], "choose"), ([70_000, 256], "choose")])
def test_halves_stay_what_they_are(tokens, expected):
    """Catches: another hash, under which documents would change their halves between two releases."""
    assert half(np.array(tokens)) == expected
