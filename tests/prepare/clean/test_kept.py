"""Runs of a store's tokens: read in pieces, cut, told apart."""

import pickle

import numpy as np
import pytest
from helpers import write_tokens
from hypothesis import given
from hypothesis import strategies as st

from lfr_jax.data.store import open_store
from lfr_jax.prepare.clean import kept as module
from lfr_jax.prepare.clean.kept import Kept, Sides, all_documents

LENGTHS = {("x", "a"): [5, 1, 30, 2], ("x", "b"): [1], ("y", "a"): [17, 9, 9, 4]}


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Every token is its own position."""
    made, at = {}, 0
    for source, lengths in LENGTHS.items():
        made[source] = [np.arange(at := at + length, at + length) - length for length in lengths]
    folder = write_tokens(tmp_path_factory.mktemp("kept") / "c", made, {("x", "v"): [[7, 8], [9]]})
    return Sides(*(all_documents(open_store(folder / side)) for side in ("train", "valid")))


def tokens_of(kept):
    """The tokens of each run, one by one."""
    return [list(range(start, stop)) for start, stop in zip(kept.start_D, kept.stop_D)]


@pytest.mark.parametrize("at_once", [3, 8, 16, 10**6])
@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("chosen", [slice(None), [0, 3, 4, 5, 8], [2], [1, 7]])
def test_pieces_are_all_tokens_in_order(sides, monkeypatch, at_once, overlap, chosen):
    """Catches: a token lost or read twice where pieces meet; one of a run that is not kept; two sources in one piece;
    wrong lengths, numbers or positions."""
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    kept = sides.train.take(chosen)
    runs = [[] for _ in kept.start_D]
    for chunk in kept.chunks(overlap):
        assert len(chunk.tokens) == chunk.lengths.sum() <= at_once
        assert set(kept.source_D[chunk.first : chunk.first + len(chunk.lengths)]) == {chunk.source}
        given_again = overlap if chunk.goes_on else 0
        assert bool(runs[chunk.first]) == chunk.goes_on
        assert chunk.at + given_again == sum(map(len, runs))
        for number, tokens in enumerate(np.split(chunk.tokens, np.cumsum(chunk.lengths)[:-1]), chunk.first):
            if chunk.goes_on:
                assert runs[number][len(runs[number]) - overlap :] == tokens[:overlap].tolist()
                tokens = tokens[overlap:]
            runs[number] += tokens.tolist()
    assert runs == tokens_of(kept)


@given(st.data())
def test_a_cut_takes_ranges_out_and_nothing_else(sides, data):
    """Catches: a token too many or too few; two halves of a run joined; a run that stays though nothing is left of it;
    positions taken for those of the store."""
    chosen = data.draw(st.lists(st.integers(0, 8), min_size=1, unique=True).map(sorted))
    kept = sides.train.take(chosen)
    total = int(kept.length_D.sum())
    ends = sorted(data.draw(st.lists(st.integers(0, total), max_size=8).map(lambda x: x[: len(x) // 2 * 2])))
    start_R, stop_R = (np.array(ends[i::2], np.int64) for i in (0, 1))
    real = start_R < stop_R
    left = kept.without_ranges(start_R[real], stop_R[real])
    gone = {p for start, stop in zip(start_R, stop_R) for p in range(start, stop)}
    expected, position = [], 0
    for tokens in tokens_of(kept):
        run = []
        for token in tokens:
            if position in gone:
                expected.append(run)
                run = []
            else:
                run.append(token)
            position += 1
        expected.append(run)
    assert tokens_of(left) == [run for run in expected if run]


def test_places(sides):
    """Catches: the two sides exchanged; a document counted among what is kept, not in its store."""
    fewer = sides.take(np.array([False, True] + [False] * 5 + [True] * 4))
    assert [tokens_of(fewer.valid), tokens_of(fewer.train)] == [[[2]], tokens_of(sides.train)[5:]]
    assert fewer.describe(0) == {"side": "valid", "domain": "x", "source": "v", "document": 1}
    assert fewer.describe(2) == {"side": "train", "domain": "y", "source": "a", "document": 6}
    assert fewer.at_D.tolist() == [0, 1, 18, 27, 36]


def test_sides_are_cut_as_one(sides):
    """Catches: ranges of train taken from valid, or shifted by its length."""
    left = sides.without_ranges(np.array([2, 4]), np.array([3, 6]))
    assert tokens_of(left.valid) == [[0, 1]]
    assert tokens_of(left.train) == [[0], [3, 4], *tokens_of(sides.train)[1:]]


def test_it_travels_to_other_processes(sides):
    """Catches: runs that lose their store."""
    again = pickle.loads(pickle.dumps(sides.train.take(slice(1, 3))))
    assert isinstance(again, Kept)
    assert [chunk.tokens.tolist() for chunk in again.chunks()] == [list(range(5, 36))]
