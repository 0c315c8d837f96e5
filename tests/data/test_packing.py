"""Best-fit packing against a plain one, and that no target is lost, read twice, or taken from another document."""

import pickle
from collections import Counter

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import write_side as write
from helpers import write_tokens

from lfr_jax.config import DataConfig
from lfr_jax.data import packing, score_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.packing import PackedBlocks, best_fit
from lfr_jax.data.store import open_store

EOS = 9_999


def one_by_one(lengths, capacity):
    """Best-fit decreasing, as it is written down in books: the room that is left in each row."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - length)
    return sorted(rooms)


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(st.data())
def test_rows_are_as_full_as_placed_one_by_one(data):
    """Catches: a row opened while another had room; a fit that is not the best; a piece lost; a row of two counts."""
    capacity = data.draw(st.integers(2, 300))
    longest = data.draw(st.integers(1, capacity))
    lengths = np.array(data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=80)))
    row_P = best_fit(lengths, capacity)
    rooms_R = capacity - np.bincount(row_P, lengths).astype(int)
    assert sorted(rooms_R.tolist()) == one_by_one(lengths.tolist(), capacity)
    # As with first fit, no two rows would fit into one: so there are fewer than twice as many as there could be.
    assert len(rooms_R) == 1 or np.sort(capacity - rooms_R)[:2].sum() > capacity
    np.testing.assert_array_equal(row_P, best_fit(lengths.astype(np.uint16), capacity))


def test_many_pieces_of_few_lengths():
    """Catches: rows handed out twice, forgotten, or less empty than they are, where a length does not fill the last of
    several rows of equal room."""
    rng = np.random.default_rng(0)
    for _ in range(1500):
        capacity = int(rng.integers(2, 100))
        lengths = rng.choice(rng.integers(1, capacity + 1, rng.integers(1, 5)), rng.integers(1, 80))
        rooms = capacity - np.bincount(best_fit(lengths, capacity), lengths).astype(int)
        assert sorted(rooms.tolist()) == one_by_one(lengths.tolist(), capacity)


@pytest.mark.parametrize("seq_len", [254, 255, 256, 65_534, 65_535])
def test_rows_at_the_bounds_of_the_types_of_lengths(tmp_path, seq_len):
    """Catches: lengths kept in a type that cannot hold a row's own, T + 1."""
    rest = seq_len - 1  # targets of each document that are left for a shared row
    store = write(
        tmp_path / "store", [("a", "x", [[1] * rest + [EOS], [2] * (seq_len + rest) + [EOS], [3, EOS]])], EOS + 1, EOS
    )
    blocks = PackedBlocks(store, seq_len)
    rows = blocks.tokens(np.arange(blocks.num_blocks))
    assert np.bincount(rows[rows >= 0])[[1, 2, 3, EOS]].tolist() == [rest, seq_len + rest + 1, 1, 3]


# A document: how many tokens, and whether end-of-text is the last of them.
DOCUMENTS = st.lists(st.tuples(st.integers(1, 30), st.sampled_from([True, True, True, False])), min_size=1, max_size=12)


def written(folder, sources):
    """(store, documents of each source): no token occurs twice, but for end-of-text."""
    tokens = iter(range(EOS))
    texts = [[[*(next(tokens) for _ in range(n - ends)), *[EOS] * ends] for n, ends in source] for source in sources]
    named = [(f"s{i}", "xyz"[i % 2], text) for i, text in enumerate(texts)]
    return write(folder / "store", named, EOS + 1, EOS), texts


@hypothesis.settings(deadline=None, max_examples=80)
@hypothesis.given(
    sources=st.lists(DOCUMENTS, min_size=1, max_size=4), seq_len=st.integers(1, 12), seed=st.integers(0, 9)
)
def test_each_target_stands_in_one_block_behind_its_own_document(tmp_path_factory, sources, seq_len, seed):
    """Catches: a target lost, read twice, or across documents; a document cut that fits; padding in between; a document
    without end-of-text that runs on into the next; blocks of the wrong source; rows in another order than asked."""
    hypothesis.assume(any(length > 1 for source in sources for length, _ in source))
    store, texts = written(tmp_path_factory.mktemp("stores"), sources)
    blocks = PackedBlocks(store, seq_len)
    ids = np.arange(blocks.num_blocks)
    rows = blocks.tokens(ids)
    assert rows.dtype == np.int32 and rows.shape == (blocks.num_blocks, seq_len + 1)
    assert not np.any((rows[:, :-1] < 0) & (rows[:, 1:] >= 0))  # padding is behind
    of_N = blocks.source_of(ids)
    assert [blocks.domains[domain] for domain in blocks.domain_N] == ["xyz"[source % 2] for source in of_N]

    lasts = {text[-2]: text[-1] for source in texts for text in source if len(text) > 1}
    found, seen = Counter(), {}
    for block, row in enumerate(rows.tolist()):
        for one, two in zip(row, row[1:]):
            if one >= 0 and two >= 0 and one != EOS:
                # A last token that is not end-of-text may have been made one: then another document follows.
                pair = (one, lasts.get(one, EOS) if two == EOS else two)
                found[of_N[block], pair] += 1
                seen.setdefault(pair, set()).add(block)
    pairs = [(s, pair) for s, source in enumerate(texts) for text in source for pair in zip(text, text[1:])]
    assert found == Counter(pairs)
    for text in (text for source in texts for text in source):
        in_blocks = set().union(*(seen[pair] for pair in zip(text, text[1:]))) if len(text) > 1 else set()
        assert len(in_blocks) == -(-(len(text) - 1) // seq_len)

    full = [(len(text) - 1) // seq_len for source in texts for text in source]
    shared = [
        len(one_by_one([(len(text) - 1) % seq_len + 1 for text in source if (len(text) - 1) % seq_len], seq_len + 1))
        for source in texts
    ]
    assert blocks.num_blocks == sum(full) + sum(shared) and blocks.num_tokens == blocks.num_blocks * seq_len
    assert blocks.padding == pytest.approx(np.mean(rows == -1))

    order = np.random.default_rng(seed).permutation(np.append(ids, [-1, -1]))
    np.testing.assert_array_equal(blocks.tokens(order), np.where(order[:, None] < 0, -1, rows[order]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(blocks)).tokens(ids), rows)


def test_by_hand(tmp_path):
    """Catches: a full row of T tokens; a rest that begins with its first target; a last token that is end-of-text
    already overwritten; the wrong share of documents cut."""
    E = EOS
    documents = [[E], [1, 2, 3, 4, 5, 6, 7, 8, 9, E], [11, E], [21, 22, 23, 24, E], [31, 32, 33], [41, 42]]
    blocks = PackedBlocks(write(tmp_path / "s", [("a", "x", documents)], EOS + 1, EOS), 4)
    assert blocks.tokens(np.arange(5)).tolist() == [
        [1, 2, 3, 4, 5],
        [5, 6, 7, 8, 9],
        [21, 22, 23, 24, E],
        [9, E, 31, 32, 33],
        [11, E, 41, 42, -1],
    ]
    assert blocks.num_blocks == 5 and blocks.padding == pytest.approx(1 / 25)
    # Concatenated, blocks begin at 0, 4, 8, ...: the long document is cut, and the one of five tokens, which is at 13.
    assert (
        blocks.summary() == "best-fit packing: 4.00 % padding, 16.7 % of the documents are cut (concatenated: 33.3 %)"
    )


def test_a_document_that_another_follows_ends_with_end_of_text(tmp_path):
    """As of token files without it. Catches: two documents that pass for one; the last one of a row changed too."""
    documents = [[1, 2, 3], [4, 5], [6, 7]]
    (row,) = PackedBlocks(write(tmp_path / "s", [("a", "x", documents)], EOS + 1, EOS), 7).tokens(np.arange(1))
    assert row.tolist() == [1, 2, EOS, 4, EOS, 6, 7, -1]


def test_appended_sources_leave_old_blocks_as_they_were(tmp_path):
    """Catches: pieces of all sources packed together, or numbered before the rows of earlier ones."""
    rng = np.random.default_rng(0)
    sources = [
        (f"s{i}", "xy"[i % 2], [rng.integers(0, 99, n).tolist() for n in rng.integers(1, 90, 30)]) for i in range(4)
    ]
    before = PackedBlocks(write(tmp_path / "before", sources[:2]), 32)
    after = PackedBlocks(write(tmp_path / "after", sources), 32)
    ids = np.arange(before.num_blocks)
    assert after.num_blocks > before.num_blocks
    np.testing.assert_array_equal(after.tokens(ids), before.tokens(ids))
    np.testing.assert_array_equal(after.source_of(ids), before.source_of(ids))


def test_what_cannot_be_packed(tmp_path):
    """Catches: a run without a single target; an id beyond the last row."""
    short = write(tmp_path / "short", [("a", "x", [[1], [2], [3]])])
    with pytest.raises(ValueError, match="found no document of two tokens or more"):
        PackedBlocks(short, 4)
    store = write(tmp_path / "s", [("a", "x", [[1, 2]]), ("b", "y", [[3]])])
    with pytest.raises(ValueError, match="found seq_len=0, expected 1 or more"):
        PackedBlocks(store, 0)
    blocks = PackedBlocks(store, 4)
    assert blocks.blocks_S.tolist() == [1, 0]
    with pytest.raises(IndexError, match="found block id 1; .* 0 to 0"):
        blocks.tokens(np.array([1]))


def test_many_documents_take_few_bytes(tmp_path):
    """Catches: a row kept in memory as it will be read; 64-bit numbers of documents; a pickle that holds them."""
    lengths = np.random.default_rng(0).integers(1, 40, 10_000)
    store = write(tmp_path / "s", [("a", "x", np.split(np.zeros(lengths.sum(), int), np.cumsum(lengths)[:-1]))])
    blocks = PackedBlocks(store, 128)
    held = sum(array.nbytes for array in vars(blocks).values() if isinstance(array, np.ndarray))
    assert held < 6 * len(lengths) and len(pickle.dumps(blocks)) < 500


@pytest.fixture
def corpus(tmp_path):
    """A folder of short documents, and one source whose documents hold no target."""
    rng = np.random.default_rng(0)
    texts = [[*rng.integers(0, 900, n), 999] for n in rng.integers(3, 60, 60)]
    return write_tokens(tmp_path / "c", {("a", "s"): texts, ("b", "s"): [[1]]}, {("a", "s"): texts[:20]})


def test_a_corpus_is_packed_for_training_alone(corpus):
    """Catches: held-out text packed, so that losses under two packings are of other targets."""
    with pytest.warns(UserWarning, match="1 of 2 sources have no document of two tokens, so no block: 1 of"):
        packed = open_corpus(DataConfig(str(corpus), 32, packing="best_fit"))
    assert type(packed.train) is PackedBlocks and type(packed.valid) is Blocks
    assert packed.train.padding > 0


def test_scores_of_other_packings_are_refused(corpus, tmp_path):
    """Catches: a file of scores that does not say how blocks were made."""
    store = open_store(corpus / "train")
    packed, cut = PackedBlocks(store, 32), Blocks(store, 32)
    for of, wanted in ((packed, cut), (cut, packed)):
        (tmp_path / "scores.csv").write_text(score_files.origin(of, 9) + "block,domain,loss\n")
        with pytest.raises(ValueError, match="in blocks of seq_len 32.*, expected those of"):
            score_files.read_scores(tmp_path / "scores.csv", wanted)
    with pytest.raises(FileNotFoundError, match="--packing best_fit --seq-len 32 --out"):
        score_files.read_scores(tmp_path / "none.csv", packed)


def test_runs_of_every_length_are_read(tmp_path):
    """Catches: the end of a run read from its start, or beyond it."""
    store = write(tmp_path / "s", [("a", "x", [list(range(200))])])
    start, length = np.array([0, 5, 100, 199, 61, 3]), np.array([1, 2, 100, 1, 64, 63])
    expected = np.concatenate([np.arange(a, a + n) for a, n in zip(start, length)])
    np.testing.assert_array_equal(packing.read_spans(store, start, length), expected)
