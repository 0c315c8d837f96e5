"""The batches of a phase with several lengths: expected draws, the order of the lengths, purity."""

import pickle

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import write_side as write

from lfr_jax import schedule
from lfr_jax.config import DataConfig
from lfr_jax.data import phase_batches, pipeline
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.lengths import LengthBlocks
from lfr_jax.distributed.mesh import make_mesh


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """200 documents of 1 to 60 tokens in blocks of 16, 8 and 4 tokens."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 250, rng.integers(1, 61)).tolist() for _ in range(200)]
    return LengthBlocks(write(tmp_path_factory.mktemp("stores") / "s", [("a", "x", texts)]), 16, 4)


def of(blocks, rates_N, steps=50, batch_size=4, seed=0, phase=1, **data):
    settings = DataConfig(packing="by_length", seq_len=16, shortest=4, **data)
    return phase_batches.plan_batches(blocks, rates_N, steps, batch_size, settings, seed, phase)


def lengths_of(blocks, batches):
    """The one length of each batch."""
    found = [{blocks.lengths[bucket] for bucket in blocks.bucket_N[batch]} for batch in batches]
    assert all(len(lengths) == 1 for lengths in found)
    return np.array([lengths.pop() for lengths in found])


@pytest.mark.parametrize("order", ["uniform", "grow_linear", "grow_p2", "grow_p100"])
def test_a_batch_has_one_length_and_always_as_many_tokens(blocks, order):
    """Catches: batches of as many rows, whatever the length; two lengths in a batch; padding; a lost step."""
    batches = list(of(blocks, np.ones(blocks.num_blocks), curriculum=order, cycles=3))
    assert len(batches) == 50
    assert [len(batch) * length for batch, length in zip(batches, lengths_of(blocks, batches))] == [64] * 50
    assert all(batch.min() >= 0 for batch in batches)
    assert len(set(lengths_of(blocks, batches))) == 3


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(steps=st.integers(1, 90), seed=st.integers(0, 9), kind=st.sampled_from(["equal", "half", "any"]))
def test_each_length_has_its_share_of_the_steps(blocks, steps, seed, kind):
    """To within a step. Catches: shares of blocks in place of tokens; rates left out; steps that do not sum up."""
    rng = np.random.default_rng(seed)
    rates_N = {"equal": np.ones, "half": lambda n: rng.random(n) < 0.5, "any": rng.random}[kind](blocks.num_blocks)
    length_N = np.array(blocks.lengths)[blocks.bucket_N]
    found = lengths_of(blocks, list(of(blocks, rates_N, steps, seed=seed)))
    assert len(found) == steps
    for length in blocks.lengths:
        expected = steps * np.sum(rates_N[length_N == length]) * length / np.sum(rates_N * length_N)
        assert abs(np.sum(found == length) - expected) < 1


@pytest.mark.parametrize("steps", [7, 40])
def test_a_block_is_drawn_in_proportion_to_its_rate_whatever_its_length(blocks, steps):
    """Over 100 seeds. Catches: rates respected within a length only; draws that go with tokens; shares always
    rounded alike, by which a length of less than half a step would never be drawn."""
    rates_N = np.tile([0.0, 1.0, 2.0, 0.5], blocks.num_blocks)[: blocks.num_blocks]
    count_N = np.zeros(blocks.num_blocks)
    for seed in range(100):
        for batch in of(blocks, rates_N, steps, batch_size=1, seed=seed):
            np.add.at(count_N, batch, 1)
    expected_N = 100 * 16 * steps * rates_N / np.sum(rates_N * np.array(blocks.lengths)[blocks.bucket_N])
    assert not count_N[rates_N == 0].any()
    for bucket in range(3):
        for rate in (0.5, 1.0, 2.0):
            some = (blocks.bucket_N == bucket) & (rates_N == rate)
            deviation = 3.5 / np.sqrt(expected_N[some].sum())  # no more than that of independent draws
            assert count_N[some].sum() == pytest.approx(expected_N[some].sum(), rel=deviation)


def test_within_a_length_counts_are_those_of_a_plan(blocks):
    """Catches: draws with replacement; a plan begun anew at each batch."""
    rates_N = np.linspace(0, 1, blocks.num_blocks)
    batches = list(of(blocks, rates_N, 120))
    count_N = np.bincount(np.concatenate(batches), minlength=blocks.num_blocks)
    for bucket in range(3):
        some = blocks.bucket_N == bucket
        expected = count_N[some].sum() * rates_N[some] / rates_N[some].sum()
        assert np.all(np.abs(count_N[some] - expected) < 1)


def test_equal_rates_are_epochs(blocks):
    """Catches: a block that comes again before the others of its length came."""
    batches = list(of(blocks, np.ones(blocks.num_blocks, bool), 200))
    lengths = lengths_of(blocks, batches)
    for bucket, length in enumerate(blocks.lengths):
        drawn = np.concatenate([batch for batch, found in zip(batches, lengths) if found == length])
        n = np.sum(blocks.bucket_N == bucket)
        for start in range(0, len(drawn), n):
            assert len(set(drawn[start : start + n])) == len(drawn[start : start + n])


def test_batches_are_a_pure_function_of_their_index(blocks):
    """Catches: a position that is carried along; another order after pickling, as in a worker process."""
    rates_N = np.linspace(0, 1, blocks.num_blocks)
    made = of(blocks, rates_N, curriculum="grow_p2", cycles=4)
    batches = [batch.tolist() for batch in made]
    for other in (of(blocks, rates_N, curriculum="grow_p2", cycles=4), pickle.loads(pickle.dumps(made))):
        for index in np.random.default_rng(0).permutation(50):
            assert other[index].tolist() == batches[index]


@pytest.mark.parametrize("change", [dict(seed=1), dict(phase=2), dict(curriculum="grow_p2"), dict(cycles=2)])
def test_seed_phase_and_settings_decide(blocks, change):
    """Catches: an argument that has no effect, on the order of the lengths or on the blocks."""
    settings = dict(curriculum="grow_linear", cycles=4)
    batches = [list(of(blocks, np.ones(blocks.num_blocks), **settings | more)) for more in ({}, change)]
    assert lengths_of(blocks, batches[0]).tolist() != lengths_of(blocks, batches[1]).tolist()
    if "seed" in change or "phase" in change:
        drawn = [[b for b, n in zip(found, lengths_of(blocks, found)) if n == 8] for found in batches]
        assert drawn[0][0].tolist() != drawn[1][0].tolist()


def test_lengths_of_as_many_blocks_have_orders_of_their_own(tmp_path):
    """Catches: one seed for all lengths: a document's blocks would be drawn at the same time, every time."""
    blocks = LengthBlocks(write(tmp_path / "s", [("a", "x", [[0] * 24] * 256)]), 16, 8)
    batches = list(of(blocks, np.ones(blocks.num_blocks), 96, batch_size=4))
    lengths = lengths_of(blocks, batches)
    documents = [
        np.concatenate([batch for batch, found in zip(batches, lengths) if found == length]) // 2 for length in (16, 8)
    ]
    assert sorted(documents[0]) == sorted(documents[1]) == list(range(256))
    assert np.sum(documents[0] == documents[1]) < 10  # 1 by chance


def orders(name, cycles=1, share_G=(1.0, 1.0, 1.0, 1.0), steps=40, seeds=200):
    return np.array([phase_batches.order(np.array(share_G), steps, name, cycles, seed, 0) for seed in range(seeds)])


def test_uniform_spreads_each_length_over_the_phase():
    """Catches: lengths in blocks of their own; a length that gathers in a part of the phase."""
    found_KxS = orders("uniform", share_G=(5.0, 3.0, 2.0))
    assert np.all([np.bincount(bucket_S) == [20, 12, 8] for bucket_S in found_KxS])
    for tenth in np.split(found_KxS, 10, axis=1):
        counts_KxG = np.stack([np.sum(tenth == bucket, axis=1) for bucket in range(3)], axis=1)
        assert np.abs(counts_KxG - [2, 1.2, 0.8]).max() < 3
        np.testing.assert_allclose(counts_KxG.mean(axis=0), [2, 1.2, 0.8], atol=0.25)
    assert len({tuple(bucket_S) for bucket_S in found_KxS}) > 190


@pytest.mark.parametrize(
    "name, odds", [("grow_linear", (1, 2, 3, 4)), ("grow_p2", (1, 2, 4, 8)), ("grow_p100", (1, 100, 10_000, 1_000_000))]
)
def test_the_first_batch_has_the_odds_of_the_curriculum(name, odds):
    """Expected of 3,000 first batches, within 3 deviations. Catches: odds of another curriculum, or turned round;
    chances of buckets in place of their batches', which would not see shares."""
    counts_G = np.bincount(orders(name, share_G=(1.0, 2.0, 1.0, 1.0), steps=50, seeds=3000)[:, 0], minlength=4)
    probability_G = np.multiply(odds, (1, 2, 1, 1)) / np.dot(odds, (1, 2, 1, 1))
    deviation_G = np.sqrt(3000 * probability_G * (1 - probability_G))
    assert np.all(np.abs(counts_G - 3000 * probability_G) <= 3 * deviation_G + 1)


def test_a_growing_curriculum_ends_with_long_blocks():
    """Catches: an order from long to short; a curriculum that changes how often a length is drawn."""
    for name in ("grow_linear", "grow_p2", "grow_p100"):
        found_KxS = orders(name)
        assert np.all([np.bincount(bucket_S) == [10, 10, 10, 10] for bucket_S in found_KxS])
        quarters = [np.mean(part) for part in np.split(found_KxS, 4, axis=1)]  # bucket 0 is the longest
        assert quarters == sorted(quarters, reverse=True)
    assert np.mean(found_KxS == np.repeat([3, 2, 1, 0], 10)) > 0.95  # at odds of 100, almost without exception


@pytest.mark.parametrize("cycles", [1, 2, 5, 1000])
def test_a_curriculum_begins_anew_in_each_cycle(cycles):
    """Catches: one cycle whatever was asked for; cycles of unequal shares; more cycles than steps."""
    found_KxS = orders("grow_p100", cycles=cycles)
    if cycles == 1000:  # each step is a cycle of its own
        assert abs(np.mean(found_KxS[:, :20]) - np.mean(found_KxS[:, 20:])) < 0.1
        return
    for part in np.split(found_KxS, cycles, axis=1):
        for bucket in range(4):
            assert abs(np.mean(np.sum(part == bucket, axis=1)) - 10 / cycles) < 0.2
        halves = np.split(part, 2, axis=1)
        assert np.mean(halves[0]) > 2.2 and np.mean(halves[1]) < 0.8


@pytest.mark.parametrize("name", ["uniform", "grow_p2"])
def test_a_length_without_a_rate_is_left_out(blocks, name):
    """Catches: a step of no draws; a division by no steps; a bucket that takes the place of another."""
    for left in range(3):
        rates_N = (blocks.bucket_N != left).astype(np.float32)
        found = lengths_of(blocks, list(of(blocks, rates_N, 30, curriculum=name)))
        assert set(found) == {*blocks.lengths} - {blocks.lengths[left]}
    alone = of(blocks, blocks.bucket_N == 0, 30, curriculum=name)
    assert set(lengths_of(blocks, list(alone))) == {16}
    with pytest.raises(ValueError, match="all 0"):
        of(blocks, np.zeros(blocks.num_blocks))


@pytest.mark.parametrize("name", ["uniform", "grow_linear", "grow_p2", "grow_p100"])
def test_one_length_alone_is_a_plan_in_batches(tmp_path, name):
    """Catches: a curriculum that reorders, drops or repeats the draws of a length."""
    blocks = LengthBlocks(write(tmp_path / "s", [("a", "x", [[0] * 40] * 30)]), 16, 16)
    rates_N = np.linspace(0, 1, blocks.num_blocks)
    found = list(of(blocks, rates_N, 25, curriculum=name, phase=3))
    draws = schedule.plan(rates_N, 100, phase_batches.own_seed(16, 0, 3), 3)
    assert np.concatenate(found).tolist() == draws[:].tolist()


def test_blocks_of_one_length_are_drawn_by_the_plan_itself(corpus_dir):
    """Catches: another order for concatenated blocks than the one that runs have had."""
    from lfr_jax.data.store import open_store

    blocks = Blocks(open_store(corpus_dir / "train"), 32)
    rates_N = np.linspace(0, 1, blocks.num_blocks)
    found = phase_batches.plan_batches(blocks, rates_N, 9, 4, DataConfig(seq_len=32), 5, 2)
    assert np.concatenate([found[i] for i in range(9)]).tolist() == schedule.plan(rates_N, 36, 5, 2)[:].tolist()


@pytest.mark.parametrize("workers, start", [(0, 0), (0, 7), (0, 19), pytest.param(2, 7, marks=pytest.mark.slow)])
def test_batches_are_read_from_any_step_on(blocks, workers, start):
    """Catches: rows of another block or length, from the middle of a phase too; blocks that do not pickle."""
    wanted = of(blocks, np.linspace(0, 1, blocks.num_blocks), 20, curriculum="grow_p2", cycles=2)
    found = list(pipeline.batches(wanted, blocks, make_mesh(1, 1, 1), start, workers))
    assert len(found) == 20 - start
    for index, batch in enumerate(found, start):
        np.testing.assert_array_equal(batch["ids"], wanted[index])
        np.testing.assert_array_equal(batch["tokens"], blocks.tokens(wanted[index]))
