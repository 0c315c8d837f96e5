"""Which documents blocks have, against the tokens themselves: every token of document d is d."""

import collections

import numpy as np
import pytest
from helpers import write_side

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.documents import Documents, block_means
from lfr_jax.data.lengths import LengthBlocks
from lfr_jax.data.packing import PackedBlocks

EOS, T = 256, 8
LENGTHS = [3, 8, 9, 17, 2, 2, 30, 1, 7, 16, 5, 5, 24, 4]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two sources."""
    documents = [np.full(length, number) for number, length in enumerate(LENGTHS)]
    sources = [("one", "a", documents[:5]), ("two", "b", documents[5:])]
    return write_side(tmp_path_factory.mktemp("store") / "train", sources, eos_id=EOS)


def found(blocks) -> dict[tuple[int, int], int]:
    """(block, document) -> tokens."""
    documents = blocks.documents()
    assert (np.diff(documents.block) >= 0).all()
    return {(b, d): n for b, d, n in zip(*map(np.ndarray.tolist, documents))}


def counted(blocks, first: int, stop: int | None) -> dict[tuple[int, int], int]:
    """The same from the tokens of each row, from place `first` to `stop`. Behind end-of-text another item begins."""
    counts = collections.Counter()
    for block in range(blocks.num_blocks):
        document = None
        for token in blocks.tokens(np.array([block]))[0, first:stop].tolist():
            document = document if token == EOS else token
            if token >= 0:
                counts[block, document] += 1
    return dict(counts)


def test_concatenated_blocks(store):
    """Catches: the last target counted; a part lost where a document begins or ends at an edge; numbers that begin anew
    with a source."""
    blocks = Blocks(store, T)
    assert found(blocks) == counted(blocks, 0, -1)
    assert sum(found(blocks).values()) == blocks.num_tokens


def test_packed_blocks(store):
    """Catches: full rows and shared rows numbered apart; rows of the second source; a rest of its document's length."""
    blocks = PackedBlocks(store, T)
    in_rows = counted(blocks, 0, None)
    assert found(blocks) == {pair: min(n, T) for pair, n in in_rows.items()}
    assert len(in_rows) > blocks.num_blocks


def test_blocks_of_several_lengths(store):
    """Catches: the token before the block counted; all blocks of the longest length."""
    blocks = LengthBlocks(store, T, 2)
    assert found(blocks) == counted(blocks, 1, None)


def test_means_by_tokens():
    """Catches: means that count each document once; NaN that spreads to the block; 0 for a block without a number."""
    documents = Documents(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 2]), np.array([3, 1, 8, 6, 2]))
    found = block_means(np.array([4.0, np.nan, 1.0]), documents, 4)
    np.testing.assert_array_equal(found, np.float32([4, np.nan, 1, np.nan]))
    np.testing.assert_array_equal(block_means(np.array([4.0, 0.0, 8.0]), documents, 3), np.float32([3, 0, 2]))
