"""Documents decomposed into blocks of several lengths: each token once, and never two documents in a block."""

import pickle
import shutil
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import write_side as write

from lfr_jax.data.lengths import LengthBlocks

EOS = 256


def decomposed(length, seq_len, shortest):
    """By hand: (first token, length) of each block of a document."""
    found, first = [], 0
    while length - first >= seq_len:
        found.append((first, seq_len))
        first += seq_len
    for digit in (2**power for power in reversed(range(20))):
        if shortest <= digit < seq_len and length & digit:
            found.append((first, digit))
            first += digit
    return found


def read(blocks):
    """Every block's row, in order of the ids, read length by length."""
    rows = [None] * blocks.num_blocks
    for _, some in blocks.by_length(np.arange(blocks.num_blocks)):
        for block, row in zip(some, blocks.tokens(some)):
            rows[block] = row.tolist()
    return rows


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    sources=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4),
    longest=st.integers(0, 4),
    halvings=st.integers(0, 4),
)
def test_blocks_are_the_binary_digits_of_each_document(tmp_path_factory, sources, longest, halvings):
    """Catches: blocks across documents; a digit lost or read twice; another order; a wrong domain or source."""
    seq_len, shortest = 2**longest, 2 ** max(0, longest - halvings)
    lengths = [length for source in sources for length in source]
    hypothesis.assume(max(lengths) >= shortest)
    tokens = iter(range(250))
    texts = [[[next(tokens) for _ in range(n)] for n in source] for source in sources] if sum(lengths) < 250 else None
    hypothesis.assume(texts is not None)
    path = tmp_path_factory.mktemp("stores") / "store"
    made = write(path, [(f"s{i}", "xyz"[i % 2], text) for i, text in enumerate(texts)])
    expected = [
        ([[EOS, *document][first], *document[first : first + length]], "xyz"[number % 2], number)
        for number, text in enumerate(texts)
        for document in text
        for first, length in decomposed(len(document), seq_len, shortest)
    ]
    blocks = LengthBlocks(made, seq_len, shortest)
    ids = np.arange(blocks.num_blocks)
    assert read(blocks) == [row for row, _, _ in expected]
    assert [blocks.domains[d] for d in blocks.domain_N] == [domain for _, domain, _ in expected]
    assert blocks.source_of(ids).tolist() == [source for _, _, source in expected]
    assert [blocks.lengths[bucket] for bucket in blocks.bucket_N] == [len(row) - 1 for row, _, _ in expected]
    assert blocks.num_tokens == sum(len(row) - 1 for row, _, _ in expected)
    assert blocks.domain_N.dtype == np.int32 and blocks.bucket_N.dtype == np.int8


@pytest.mark.parametrize(
    "length, rows",
    [
        (1, [[EOS, 0]]),
        (2, [[EOS, 0, 1]]),
        (3, [[EOS, 0, 1], [1, 2]]),
        (4, [[EOS, 0, 1, 2, 3]]),
        (5, [[EOS, 0, 1, 2, 3], [3, 4]]),
        (8, [[EOS, 0, 1, 2, 3], [3, 4, 5, 6, 7]]),
        (11, [[EOS, 0, 1, 2, 3], [3, 4, 5, 6, 7], [7, 8, 9], [9, 10]]),
    ],
)
def test_every_token_is_a_target_once(tmp_path, length, rows):
    """By hand. Catches: T + 1 tokens used up by a block; a first token, or a last one, that no block predicts."""
    blocks = LengthBlocks(write(tmp_path / "s", [("a", "x", [list(range(length))])]), 4, 1)
    assert read(blocks) == rows
    assert [token for row in rows for token in row[1:]] == list(range(length))


def test_what_is_left_out_is_the_end_of_a_document(tmp_path):
    """Catches: a rest that is read as a block; a document without a block that shifts others; a wrong share."""
    texts = [list(range(n)) for n in (3, 7, 1, 16, 2)]
    blocks = LengthBlocks(write(tmp_path / "s", [("a", "x", texts)]), 8, 4)
    assert blocks.lengths == (8, 4)
    assert read(blocks) == [[EOS, 0, 1, 2, 3], [EOS, *range(8)], [*range(7, 16)]]
    assert blocks.num_tokens == 20
    assert blocks.summary() == "tokens in blocks of  8 55.2 %  4 13.8 %  left out 31.0 %"


def test_sources_that_are_appended_leave_the_others_as_they_are(tmp_path):
    """Catches: blocks numbered by length, or by the place of a document in the whole store."""
    texts = [("a", "x", [[1] * 5, [2] * 2]), ("b", "y", [[3] * 7])]
    before = LengthBlocks(write(tmp_path / "s", texts), 4, 1)
    after = LengthBlocks(write(tmp_path / "t", [*texts, ("c", "x", [[4] * 6]), ("d", "y", [[5]])]), 4, 1)
    assert read(after)[: before.num_blocks] == read(before)
    assert after.bucket_N[: before.num_blocks].tolist() == before.bucket_N.tolist()
    assert after.domain_N[: before.num_blocks].tolist() == before.domain_N.tolist()


def test_padding_and_what_rows_refuse(tmp_path):
    """Catches: padding read as the last block; blocks of two lengths in one array; an id beyond the end."""
    blocks = LengthBlocks(write(tmp_path / "s", [("a", "x", [[1, 2, 3], [4, 5]])]), 2, 1)
    assert blocks.tokens(np.array([-1, 2, 0, -1])).tolist() == [[-1] * 3, [EOS, 4, 5], [EOS, 1, 2], [-1] * 3]
    with pytest.raises(ValueError, match=r"blocks of lengths \[2, 1\], expected blocks of one length"):
        blocks.tokens(np.array([0, 1]))
    with pytest.raises(ValueError, match=r"blocks of lengths \[\], .* at least one"):
        blocks.tokens(np.array([-1, -1]))
    for wrong in (3, -2):
        with pytest.raises(IndexError, match=f"found block id {wrong}; .* 0 to 2"):
            blocks.tokens(np.array([0, wrong]))
        with pytest.raises(IndexError, match=f"found block id {wrong}"):
            blocks.source_of(np.array([wrong]))


@pytest.mark.parametrize("seq_len, shortest", [(6, 2), (8, 3), (4, 8), (8, 0), (0, 0), (8, -8)])
def test_lengths_that_are_no_powers_of_two(tmp_path, seq_len, shortest):
    """Catches: lengths that do not halve, or none."""
    store = write(tmp_path / "s", [("a", "x", [[0] * 20])])
    with pytest.raises(ValueError, match=f"data.seq_len={seq_len} and data.shortest={shortest}, expected two powers"):
        LengthBlocks(store, seq_len, shortest)


def test_no_document_is_long_enough(tmp_path):
    """Catches: no blocks at all, taken for a corpus."""
    store = write(tmp_path / "s", [("a", "x", [[0] * 7] * 9)])
    with pytest.raises(ValueError, match="documents of up to 7 tokens and data.shortest=8: .*; lower data.shortest"):
        LengthBlocks(store, 16, 8)
    assert LengthBlocks(store, 16, 4).num_blocks == 9


def test_sources_without_a_block_are_stepped_over(tmp_path):
    """Catches: a short source, before, between or after others, that shifts blocks or answers for them."""
    texts = [[[0]], [[1] * 4, [1]], [[2] * 3], [[3]], [[4] * 5], [[5]]]
    blocks = LengthBlocks(write(tmp_path / "s", [(f"s{i}", "x", text) for i, text in enumerate(texts)]), 4, 2)
    assert blocks.blocks_S.tolist() == [0, 1, 1, 0, 1, 0]
    assert blocks.source_of(np.arange(3)).tolist() == [1, 2, 4]
    assert [row[1] for row in read(blocks)] == [1, 2, 4]


def test_blocks_pickle_by_path(tmp_path):
    """Catches: tokens, or an array of a number for each block, carried in the pickle; another shortest length."""
    blocks = LengthBlocks(write(tmp_path / "s", [("a", "x", [[1, 2, 3]] * 1000)]), 2, 2)
    blocks.bucket_N, blocks.domain_N
    pickled = pickle.dumps(blocks)
    assert len(pickled) < 600
    reader = "import pickle, sys; b = pickle.load(sys.stdin.buffer); print(b.num_blocks, b.tokens([999, -1]).tolist())"
    done = subprocess.run([sys.executable, "-c", reader], input=pickled, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "1000 [[256, 1, 2], [-1, -1, -1]]"
    shutil.rmtree(tmp_path / "s")
    write(tmp_path / "s", [("a", "x", [[9, 9, 9]])])
    with pytest.raises(ValueError, match="it was replaced"):
        pickle.loads(pickled)


def test_memory_is_that_of_documents(tmp_path):
    """Catches: arrays of eight bytes a block; those of documents copied."""
    blocks = LengthBlocks(write(tmp_path / "s", [("a", "x", [[1] * 31] * 1000)]), 16, 1)
    arrays = [blocks.bucket_N, blocks.domain_N, blocks.first_D, blocks.store.doc_starts]
    held = {id(x): x.nbytes for x in [*vars(blocks).values(), *arrays] if isinstance(x, np.ndarray)}
    assert blocks.num_blocks == 5000
    assert sum(held.values()) <= 12 * 1000 + 5 * 5000 + 100
