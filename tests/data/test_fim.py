"""Fill-in-the-middle: the layouts, the rates, and rows that follow from seed, phase, batch and row alone."""

import pickle

import numpy as np
import pytest

from lfr_jax.data import fim, pipeline
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.fim import FillInTheMiddle, Sentinels, sentinels
from lfr_jax.data.store import open_store
from lfr_jax.distributed.mesh import Shards, make_mesh

EOS = 99
PRE, SUF, MID = IDS = Sentinels(100, 101, 102)


def change(rate=1.0, spm_rate=0.5, seed=0, phase=0):
    return FillInTheMiddle(rate, spm_rate, IDS, EOS, seed, phase)


def rows(count, length, ends, seed=0):
    """Rows of tokens of which none occurs twice, with end-of-text at random."""
    tokens_RxT1 = np.arange(1000, 1000 + count * length, dtype=np.int32).reshape(count, length)
    tokens_RxT1[np.random.default_rng(seed).random((count, length)) < ends] = EOS
    return tokens_RxT1


def parts(document):
    """A changed document's prefix, middle and suffix, read by its sentinels; under SPM the prefix is in the middle."""
    document = list(document)
    assert document[0] == PRE and [document.count(i) for i in IDS] == [1, 1, 1]
    suffix, middle = document.index(SUF), document.index(MID)
    assert 0 < suffix < middle
    return document[1:suffix], document[middle + 1 :], document[suffix + 1 : middle]


def test_layouts():
    """Catches: parts in another order, a sentinel in another's place, end-of-text moved, a neighbour's tokens."""
    row = np.array([[7, EOS, *range(10), EOS, 8, -1, -1]], np.int32)
    start, text, head, tail = (np.array([x]) for x in (2, 7, 2, 5))
    psm = fim.arranged(row, start, text, head, tail, IDS)
    assert psm.tolist() == [[7, EOS, PRE, 0, 1, SUF, 5, 6, MID, 2, 3, 4, EOS, 8, -1, -1]]
    spm = fim.arranged(row, start, text, np.array([0]), tail, IDS)
    assert spm.tolist() == [[7, EOS, PRE, SUF, 5, 6, MID, 0, 1, 2, 3, 4, EOS, 8, -1, -1]]
    empty = fim.arranged(row, start, text, np.array([7]), np.array([7]), IDS)
    assert empty.tolist() == [[7, EOS, PRE, 0, 1, 2, 3, 4, 5, 6, SUF, MID, EOS, 8, -1, -1]]
    assert psm.dtype == np.int32


@pytest.mark.parametrize("spm_rate", [0.0, 0.5, 1.0])
def test_put_back_in_order_the_text_is_what_it_was(spm_rate):
    """But for the last three tokens of each document. Catches: a token lost or doubled; documents mixed up, across rows
    too; short ones changed; end-of-text or padding moved; input overwritten."""
    before = rows(40, 60, 0.06)
    before[::3, 50:] = -1
    kept = before.copy()
    after = change(spm_rate=spm_rate)(before, 3, np.arange(40))
    np.testing.assert_array_equal(before, kept)
    assert after.dtype == np.int32 and after.shape == before.shape
    fixed = (before == EOS) | (before < 0)
    np.testing.assert_array_equal(after[fixed], before[fixed])
    changed = 0
    for one, other, here in zip(before, after, fixed):
        cuts = np.flatnonzero(np.diff(here, prepend=True, append=True))
        for start, stop in cuts.reshape(-1, 2):
            if stop - start <= 3:
                assert other[start:stop].tolist() == one[start:stop].tolist()
                continue
            prefix, middle, suffix = parts(other[start:stop])
            assert prefix + middle + suffix == one[start : stop - 3].tolist()
            assert not (prefix and spm_rate == 1)
            changed += 1
    assert changed > 50


def test_rates_hold_and_cuts_are_uniform():
    """Within five standard deviations, of 20,000 documents. Catches: rates exchanged; one number used for two choices;
    a cut that never falls on an end; a middle that is drawn another way."""
    text, count = 5, 20_000
    before = np.arange(1000, 1000 + text + 3, dtype=np.int32)[None].repeat(count, 0)
    after = change(rate=0.3, spm_rate=0.0)(before, 0, np.arange(count))
    is_changed = after[:, 0] == PRE
    assert abs(is_changed.mean() - 0.3) < 5 * (0.3 * 0.7 / count) ** 0.5
    lengths = np.array([[len(part) for part in parts(row)] for row in after[is_changed]])
    pairs = np.zeros((text + 1, text + 1))
    np.add.at(pairs, (lengths[:, 0], lengths[:, 0] + lengths[:, 1]), 1)
    expected = np.triu(2 * np.ones_like(pairs), 1) + np.eye(text + 1)  # two cuts, in either order
    expected *= len(lengths) / expected.sum()
    assert np.all(np.abs(pairs - expected) < 5 * np.sqrt(expected) + 1e-9)

    mixed = change(rate=0.6, spm_rate=0.7)(before, 0, np.arange(count))
    mixed = mixed[mixed[:, 0] == PRE]
    # A prefix that is empty by chance looks like SPM: 11 of 36 are.
    spm = 0.7 + 0.3 * 11 / 36
    assert abs(np.mean(mixed[:, 1] == SUF) - spm) < 5 * (spm * (1 - spm) / len(mixed)) ** 0.5


def test_rows_follow_from_seed_phase_batch_and_row():
    """Catches: numbers that depend on which rows are read together, or not on one of the four."""
    before = rows(16, 50, 0.05)
    whole = change()(before, 5, np.arange(16))
    some = np.array([3, 4, 11])
    np.testing.assert_array_equal(change()(before[some], 5, some), whole[some])
    same = before[:1].repeat(16, 0)
    assert len({row.tobytes() for row in change()(same, 5, np.arange(16))}) == 16
    others = (
        change()(before, 6, np.arange(16)),
        change(seed=1)(before, 5, np.arange(16)),
        change(phase=1)(before, 5, np.arange(16)),
    )
    assert len({array.tobytes() for array in (whole, *others)}) == 4
    assert (
        change(seed=1, phase=0)(before, 5, np.arange(16)).tobytes()
        != change(seed=0, phase=1)(before, 5, np.arange(16)).tobytes()
    )


@pytest.mark.parametrize("before", [rows(2, 9, 1.0), np.full((3, 9), -1, np.int32), rows(0, 9, 0.5)])
def test_nothing_to_change(before):
    """Catches: an error in a batch without text, or of a process that holds no rows."""
    np.testing.assert_array_equal(change()(before, 0, np.arange(len(before))), before)
    text = rows(2, 9, 0.0)
    np.testing.assert_array_equal(change(rate=0.0)(text, 0, np.arange(2)), text)


def test_sentinels_follow_the_vocabulary():
    """Catches: an id of the tokenizer taken for a sentinel."""
    assert sentinels(257) == Sentinels(prefix=257, suffix=258, middle=259)


def test_batches_are_the_same_from_any_start_and_in_any_process(corpus_dir):
    """Catches: batches numbered from where a run goes on; rows numbered from where a process's begin; ids changed."""
    blocks = Blocks(open_store(corpus_dir / "train"), 32)
    wanted = pipeline.Batched(np.arange(64), 8)
    changing = FillInTheMiddle(0.5, 0.5, sentinels(257), 256, 0, 0)
    mesh = make_mesh(1, 1, 1)
    whole = list(pipeline.batches(wanted, blocks, mesh, transform=changing))
    rest = list(pipeline.batches(wanted, blocks, mesh, 5, transform=changing))
    assert len(whole) == 8 and len(rest) == 3
    for batch, again in zip(whole[5:], rest):
        np.testing.assert_array_equal(batch["tokens"], again["tokens"])
        np.testing.assert_array_equal(batch["ids"], again["ids"])
    plain = list(pipeline.batches(wanted, blocks, mesh))
    assert all(np.any(one["tokens"] != other["tokens"]) for one, other in zip(plain, whole))
    shards = Shards(mine=(1, 3), of=4)
    element = pickle.loads(pickle.dumps(pipeline.BatchSource(wanted, blocks, shards, changing)))[2]
    np.testing.assert_array_equal(element["tokens"], whole[2]["tokens"][shards.rows(8)])
