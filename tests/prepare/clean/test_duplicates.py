"""Exact copies of documents and of blocks: those that were planted, and no others."""

import numpy as np
import pytest
from helpers import write_tokens

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.prepare.clean import kept as module
from lfr_jax.prepare.clean.duplicates import first_equal, without_blocks, without_documents
from lfr_jax.prepare.clean.kept import Sides, all_documents
from lfr_jax.prepare.clean.rewrite import write_kept


def opened(folder):
    return Sides(*(all_documents(open_store(folder / side)) for side in ("train", "valid")))


def runs(kept):
    return [kept.store.tokens[start:stop].tolist() for start, stop in zip(kept.start_D, kept.stop_D)]


def random_documents(count, seed, length=40):
    rng = np.random.default_rng(seed)
    return [[*rng.integers(0, 900, rng.integers(length // 2, length)).tolist(), 999] for _ in range(count)]


@pytest.mark.parametrize("at_once", [16, 10**6])
def test_the_first_of_equal_documents_stays(tmp_path, monkeypatch, at_once):
    """Catches: the last one kept; a document of both sides that stays in train, or leaves what is held out; a digest of
    a long document's last part alone; documents equal but for their length taken as one."""
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    a, b, c, d = random_documents(4, 0)
    same_end = [*a[:-20], 1, *a[-19:]]
    train = {("x", "1"): [a, b, a[:-1], same_end], ("y", "2"): [c, a, b], ("y", "3"): [d, d]}
    sides = opened(write_tokens(tmp_path / "c", train, {("x", "v"): [c, random_documents(1, 1)[0], c]}))
    left, told = without_documents(sides, examples=3)
    assert runs(left.train) == [a, b, a[:-1], same_end, d]
    assert runs(left.valid) == runs(sides.valid)[:2]
    assert [(one["side"], one["document"], one["copy_of"]["side"], one["copy_of"]["document"]) for one in told] == [
        ("valid", 2, "valid", 0),
        ("train", 4, "valid", 0),
        ("train", 5, "train", 0),
    ]
    assert told[1] == {"side": "train", "domain": "y", "source": "2", "document": 4, "copy_of": sides.describe(0)}


def test_first_equal_rows():
    """Catches: rows that are equal in one column taken as equal; another than the first."""
    rows = np.array([[5, 1], [1, 5], [5, 1], [5, 5], [1, 5], [5, 1]], np.uint64)
    assert first_equal(rows).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_equal(rows[:0]).tolist() == []


def blocks_of(folder, side, seq_len):
    cut = Blocks(open_store(folder / side), seq_len)
    return [tuple(row) for row in cut.tokens(np.arange(cut.num_blocks))[:, :-1].tolist()]


@pytest.mark.parametrize("at_once", [13, 64, 10**6])
def test_planted_blocks_are_cut_out(tmp_path, monkeypatch, at_once):
    """Blocks of 16, one of them copied within its document, over a document's end, into another source, and from what
    is held out; copies off the bounds stay.

    Catches: a block that begins elsewhere taken for one of the store's; bounds that move, so that blocks that stay are
    others; a tail lost; the only copy cut; a source's last block, which lacks its target, taken for one.
    """
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    flat = np.random.default_rng(0).integers(0, 900, 16 * 12 + 5).tolist()
    for block in (3, 4, 9):
        flat[16 * block : 16 * block + 16] = flat[:16]
    flat[16 * 6 + 3 : 16 * 7 + 3] = flat[:16]  # off the bounds
    documents = [flat[:30], flat[30:70], flat[70:150], flat[150:]]  # the copies are 48 to 80, and 144 to 160
    other = np.random.default_rng(1).integers(0, 900, 48).tolist()
    other[32:48] = flat[:16]  # a source's last tokens are no block
    held_out = np.random.default_rng(2).integers(0, 900, 40).tolist()
    other[16:32] = held_out[:16]
    train = {("x", "a"): documents, ("x", "b"): [other]}
    folder = write_tokens(tmp_path / "c", train, {("x", "v"): [held_out]})
    left, told = without_blocks(opened(folder), 16, examples=9)
    expected = [flat[:30], flat[30:48], flat[80:144], flat[160:]]
    assert runs(left.train) == [*expected, other[:16], other[32:]]
    assert runs(left.valid) == [held_out]
    of = [(one["document"], one["copy_of"]["side"], one["copy_of"]["document"]) for one in told]
    assert of == [(1, "train", 0), (1, "train", 0), (2, "train", 0), (4, "valid", 0)]
    write_kept(left.train, tmp_path / "new/train")
    before = blocks_of(folder, "train", 16)
    assert blocks_of(tmp_path / "new", "train", 16) == [b for i, b in enumerate(before) if i not in (3, 4, 9, 13)]


def test_blocks_are_those_of_what_stays(tmp_path):
    """Catches: blocks cut out of the store as it was, before documents left it."""
    a, b = (np.random.default_rng(seed).integers(0, 900, 20).tolist() for seed in (0, 1))
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): [a, [7] * 7, a, b]}, {("x", "v"): [[5]]}))
    assert runs(without_blocks(sides, 20)[0].train) == [a, [7] * 7, a, b]
    fewer = sides.take(np.array([True, True, False, True, True]))
    assert runs(without_blocks(fewer, 20)[0].train) == [a, b]


def test_sources_too_short_for_a_block(tmp_path):
    """Catches: an error where there is nothing to compare."""
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): [[1, 2], [1, 2]]}, {("x", "v"): [[1, 2]]}))
    left, told = without_blocks(sides, 100, examples=5)
    assert runs(left.train) == [[1, 2], [1, 2]] and told == []
