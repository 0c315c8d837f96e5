"""A store written again: what is kept, and nothing else."""

import numpy as np
import pytest
from helpers import write_tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from test_duplicates import random_documents

from lfr_jax.data.store import open_store
from lfr_jax.prepare.clean import kept as module
from lfr_jax.prepare.clean.kept import all_documents
from lfr_jax.prepare.clean.rewrite import write_kept
from lfr_jax.prepare.store_writer import write_store

FACTS = (1000, 999, "ids", "d" * 64)


@settings(max_examples=25, deadline=None)  # files are synced
@given(
    lengths=st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=5), min_size=1, max_size=5),
    vocab_size=st.sampled_from([1000, 70_000]),
    at_once=st.sampled_from([7, 100]),
)
def test_with_nothing_to_leave_out_the_bytes_are_the_same(tmp_path_factory, lengths, vocab_size, at_once):
    """Catches: a document or a source begun where there was none, or the reverse; another type of token."""
    folder = tmp_path_factory.mktemp("rewrite")
    top = iter(range(vocab_size - 1, 0, -1))
    train = {(f"d{i % 3}", f"s{i}"): [[next(top) for _ in range(n)] for n in of_it] for i, of_it in enumerate(lengths)}
    old = open_store(write_tokens(folder / "c", train, {("x", "v"): [[1]]}, vocab_size) / "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        write_kept(all_documents(old), folder / "again")
    new = open_store(folder / "again")
    assert new.card == old.card
    new.verify()


def test_what_is_kept_of_each_source(tmp_path):
    """Catches: a source without documents that stays; another order of domains; a rest of a document with no start."""
    made = random_documents(6, 0, 80)  # of 40 tokens or more
    train = {("y", "a"): made[:1], ("x", "b"): made[1:4], ("y", "c"): made[4:]}
    old = open_store(write_tokens(tmp_path / "c", train, {("x", "v"): [[1]]}) / "train")
    kept = all_documents(old).take(slice(1, None)).without_ranges(np.array([3, 30]), np.array([5, len(made[1]) + 4]))
    write_kept(kept, tmp_path / "new")
    new = open_store(tmp_path / "new")
    expected = [made[1][:3], made[1][5:30], made[2][4:], *made[3:]]
    starts = new.doc_starts.tolist()
    assert [new.tokens[a:b].tolist() for a, b in zip(starts, [*starts[1:], len(new.tokens)])] == expected
    assert [(source.name, source.domain) for source in new.sources] == [("b", "x"), ("c", "y")] and new.domains == (
        "x",
        "y",
    )


def test_sources_of_one_name_stay_apart(tmp_path):
    """As there are after `lfr prepare --append`. Catches: an error; two sources made one, which would move blocks."""
    with write_store(tmp_path / "v1", *FACTS) as writer:
        writer.source("a", "x")
        writer.add(np.arange(20), np.array([20]))
    with write_store(tmp_path / "v2", *FACTS, after=open_store(tmp_path / "v1")) as writer:
        writer.source("a", "x")
        writer.add(np.arange(100, 110), np.array([10]))
    write_kept(all_documents(open_store(tmp_path / "v2")), tmp_path / "again")
    assert open_store(tmp_path / "again").card == open_store(tmp_path / "v2").card


def test_nothing_is_no_store(tmp_path):
    """Catches: an empty store, which nothing can open."""
    store = open_store(write_tokens(tmp_path / "c", {("x", "a"): [[1]]}, {("x", "v"): [[1]]}) / "train")
    with pytest.raises(ValueError, match="no tokens were added"):
        write_kept(all_documents(store).take(slice(0, 0)), tmp_path / "new")
    assert not (tmp_path / "new").exists()
