"""A store that begins with another one, and documents that come in parts."""

import numpy as np
import pytest

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.data.store_card import Source
from lfr_jax.prepare import store_writer
from lfr_jax.prepare.store_writer import write_store

FACTS = (257, 256, "bytes", "d" * 64)


@pytest.fixture
def old(tmp_path):
    with write_store(tmp_path / "old", *FACTS) as writer:
        for name, domain, length in (("a", "x", 11), ("b", "y", 8)):
            writer.source(name, domain)
            writer.add(np.arange(length), np.array([length - 2, 2]))
    return open_store(tmp_path / "old")


def test_old_blocks_keep_their_ids(old, tmp_path, monkeypatch):
    """Catches: new documents among the old ones, or joined to an old source, which would move its blocks' ids or give
    its tail a block; domains in another order; tokens lost where a part of the copy ends."""
    monkeypatch.setattr(store_writer, "COPY_TOKENS", 4)
    with write_store(tmp_path / "new", *FACTS, after=old) as writer:
        for name, domain in (("a", "x"), ("a", "a")):
            writer.source(name, domain)
            writer.add(np.arange(100, 109), np.array([9]))
    new = open_store(tmp_path / "new")
    new.verify()
    assert (new.path / "tokens.bin").read_bytes().startswith((old.path / "tokens.bin").read_bytes())
    assert new.sources == (*old.sources, Source("a", "x", 19, 9), Source("a", "a", 28, 9))
    assert new.doc_starts.tolist() == [*old.doc_starts.tolist(), 19, 28] and new.domains == ("x", "y", "a")
    for seq_len in range(1, 9):
        before, after = Blocks(old, seq_len), Blocks(new, seq_len)
        ids = np.arange(before.num_blocks)
        assert after.num_blocks >= before.num_blocks + 2 * (8 // seq_len)
        np.testing.assert_array_equal(after.tokens(ids), before.tokens(ids))
        np.testing.assert_array_equal(after.domain_N[ids], before.domain_N)


def test_a_damaged_store_is_not_carried_on(old, tmp_path):
    """Catches: flipped bits that get a new, right digest."""
    content = bytearray((old.path / "tokens.bin").read_bytes())
    content[3] ^= 1
    (old.path / "tokens.bin").write_bytes(content)
    with pytest.raises(ValueError, match="old/tokens.bin: its bytes have changed"):
        with write_store(tmp_path / "new", *FACTS, after=open_store(old.path)):
            raise AssertionError("was entered")
    assert not (tmp_path / "new").exists()


def test_a_document_in_parts_begins_once(tmp_path):
    """Catches: a start of a document in its middle, or a start lost."""
    with write_store(tmp_path / "s", *FACTS) as writer:
        writer.source("a", "x")
        writer.add(np.array([1, 2]), np.array([2]))
        writer.add(np.array([3, 256, 4]), np.array([2, 1]), goes_on=True)
        writer.add(np.array([5]), np.array([1]), goes_on=True)
        writer.add(np.array([6]), np.array([1]))
    store = open_store(tmp_path / "s")
    assert store.tokens.tolist() == [1, 2, 3, 256, 4, 5, 6] and store.doc_starts.tolist() == [0, 4, 6]


def test_a_source_is_begun_once(tmp_path):
    """Catches: two sources of one name by mistake, whose blocks nobody can tell apart; none where they are wanted."""
    with pytest.raises(ValueError, match="source 'a' of domain 'x' was begun before"):
        with write_store(tmp_path / "s", *FACTS) as writer:
            writer.source("a", "x")
            writer.source("a", "x")
    with write_store(tmp_path / "s", *FACTS) as writer:
        for _ in range(2):
            writer.source("a", "x", again=True)
            writer.add(np.arange(3), np.array([3]))
    assert open_store(tmp_path / "s").sources == (Source("a", "x", 0, 3), Source("a", "x", 3, 3))
