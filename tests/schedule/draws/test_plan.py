"""Plans: counts, passes, orders and access."""

import itertools
import math
import pickle
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lfr_jax.schedule import Purpose, numpy_key, plan, systematic_sample
from lfr_jax.schedule.draws import systematic
from lfr_jax.schedule.draws.systematic import CHUNK, settle

seeds = st.integers(-(2**63), 2**63 - 1)
any_rate = st.one_of(st.just(0.0), st.floats(1e-6, 1e6), st.sampled_from([0.1, 0.25, 0.3, 1.0, 2.0, 3.0]))


def expected(rates, num_draws):
    total = sum(map(Fraction, rates))
    return [Fraction(r) * num_draws / total for r in rates]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 200), seeds, st.integers(0, 9))
def test_equal_rates_are_shuffled_epochs(kept, num_draws, seed, phase):
    """Catches: dropped blocks drawn; a block twice in a pass; the last pass of another size."""
    assume(any(kept))
    ids = np.flatnonzero(kept)
    draws = plan(np.float32(kept) * 0.7, num_draws, seed, phase)[:]
    assert draws.shape == (num_draws,) and draws.dtype == np.int64
    for start in range(0, num_draws, len(ids)):
        one_pass = draws[start : start + len(ids)]
        assert len(set(one_pass)) == len(one_pass) and set(one_pass) <= set(ids)


@settings(deadline=None, max_examples=80)
@given(st.lists(any_rate, min_size=1, max_size=25), st.integers(1, 200), seeds, st.integers(0, 9))
def test_any_rates(rates, num_draws, seed, phase):
    """Catches: multinomial counts; floor alone; a copy too many in the last block; copies that meet in
    one pass; unequal passes; the longer passes last."""
    positive = {r for r in rates if r > 0}
    assume(len(positive) > 1)
    draws = plan(rates, num_draws, seed, phase)[:]
    counts = np.bincount(draws, minlength=len(rates))
    want = expected(rates, num_draws)
    assert counts.sum() == num_draws
    assert all(abs(c - e) < 1 for c, e in zip(counts, want))
    # Expected counts within 2**-40 of a whole number are that number.
    num_passes = math.ceil(max(want) - Fraction(1, 2**40))
    size, longer = divmod(num_draws, num_passes)
    edges = np.cumsum([0] + [size + 1] * longer + [size] * (num_passes - longer))
    assert edges[-1] == num_draws
    for start, stop in itertools.pairwise(edges):
        assert len(set(draws[start:stop])) == stop - start


@pytest.mark.parametrize("offset", [0, 12345, 2**32 - 1])  # all of its words: the last is one unit short of a whole
@pytest.mark.parametrize("k", [2, 3, 7, 1000, CHUNK + 3])
def test_counts_at_every_offset(k, offset, monkeypatch):
    """Catches: not evening out what rounding leaves over (sums M − 1 or M + 1 at some offset); a chunk
    that starts at its own offset; copies of a block apart."""
    fixed = np.full(8, offset, np.uint32)
    keys = {Purpose.OFFSET: fixed}
    monkeypatch.setattr(systematic, "numpy_key", lambda p, *key: keys[p] if p in keys else numpy_key(p, *key))
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, 1, k) * (rng.random(k) < 0.7) + np.where(np.arange(k) == k // 2, 1e-9, 0)
    for num_draws in (1, 10, k, 3 * k + 1):
        want = rates * num_draws / rates.sum()
        copies, bound = systematic_sample(rates, num_draws, 0, 0)
        counts = np.bincount(copies, minlength=k)
        assert len(copies) == num_draws and copies.dtype == np.uint32
        assert np.abs(counts - want).max() < 1 and counts.max() <= bound == math.ceil(want.max() - 2**-40)
        assert len(np.flatnonzero(np.diff(copies))) == (counts > 0).sum() - 1  # equal ones together


@pytest.mark.parametrize("size", [1, 2, 5, 64, 65, 1000, 65_536])
def test_shuffled_is_a_permutation(size):
    """Catches: places outside of the size, which the grid has."""
    orders = [systematic.shuffled(size, numpy_key(b"test", 0, 0, number)) for number in range(2)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert size < 5 or (orders[0] != orders[1]).any()


def test_every_chunk_gets_its_share():
    """Catches: marks that start afresh in each chunk; a position that is not carried on to the next."""
    rates = np.random.default_rng(0).random(5 * CHUNK, np.float32)
    drawn = np.bincount(systematic_sample(rates, 1000, 0, 0)[0] // CHUNK, minlength=5)
    want = 1000 * rates.reshape(5, CHUNK).sum(axis=1, dtype=float) / rates.sum(dtype=float)
    assert np.abs(drawn - want).max() < 1


def test_whole_expected_counts_are_met_exactly():
    """Catches: expected counts taken at their float value: 2.9999999999999996 rounded down,
    49.00000000000001 up, which would also make for one more pass; what is left over given to a whole one."""
    for seed in range(50):
        for rates, num_draws, want in (([0.1, 0.2, 0.3], 18, [3, 6, 9]), ([0.1, 0.7, 0.3], 77, [7, 49, 21])):
            copies, bound = systematic_sample(np.array(rates), num_draws, seed, 0)
            assert np.bincount(copies).tolist() == want and bound == max(want)


def test_what_is_left_over_moves_no_count_across_a_whole():
    """Catches: everything given to the first block; a whole one moved; a sign."""
    for rest, moved, left in ((3, [0, 1, 2, 0], 0), (-3, [0, -3, 0, 0], 0), (90, [0, 1, 5, 0], 84), (0, [0] * 4, 0)):
        units = np.array([16, 15, 19, 32])  # 8 units make a whole
        if rest == -3:
            assert settle(units, -30, 8) == -20 and units.tolist() == [16, 8, 16, 32]
            units = np.array([16, 15, 19, 32])
        assert settle(units, rest, 8) == left
        assert units.tolist() == [16 + moved[0], 15 + moved[1], 19 + moved[2], 32 + moved[3]]


def test_the_plan_of_many_blocks_needs_no_more_than_its_copies():
    """Catches: arrays of N floats or of N int64 beside the copies."""
    n = 40 * CHUNK
    for rates, size in ((np.arange(n, dtype=np.float32), 4 * n), (np.float32(np.arange(n) % 2), 2 * n)):
        tracemalloc.start()
        draws = plan(rates, n, 0, 0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(pickle.dumps(draws)) < size + 1000
        assert peak < size + 2 * n


def test_extreme_rates():
    """Catches: a sum that overflows; one that underflows."""
    for scale in (1e308, 1.0, 1e-300):
        draws = plan([1 * scale, 0.5 * scale, 0.5 * scale], 8, 0, 0)[:]
        assert np.bincount(draws).tolist() == [4, 2, 2]


def test_counts_average_to_the_expected_ones():
    """Catches: an offset that does not depend on the seed; fractions rounded to the nearest."""
    rates, num_draws = [1.0, 0.3, 0.2, 0.9, 0.05], 3
    total = sum(np.bincount(plan(rates, num_draws, seed, 0)[:], minlength=5) for seed in range(300))
    want = np.array([float(e) for e in expected(rates, num_draws)])
    assert np.abs(total / 300 - want).max() < 4 * 0.5 / 300**0.5


def test_no_block_is_tied_to_a_pass():
    """Catches: dealing the copies out in the order of the index."""
    rates = [4.0] + [1.0] * 8  # 12 draws: 4 passes of 3; each low-rate block is drawn once
    passes = [int(np.flatnonzero(plan(rates, 12, seed, 0)[:] == 5)[0]) // 3 for seed in range(200)]
    assert np.abs(np.bincount(passes, minlength=4) - 50).max() < 4 * 50**0.5


def test_random_access_equals_reading_through():
    """Catches: state kept between calls; a result that depends on the other positions asked for."""
    for rates in (np.ones(500), [1.0, 2.5] * 250):
        draws = plan(rates, 1800, seed=3, phase=1)
        whole = draws[:]
        rng = np.random.default_rng(0)
        positions = rng.integers(0, 1800, (7, 5))
        np.testing.assert_array_equal(draws[positions], whole[positions])
        assert [draws[i] for i in range(0, 1800, 97)] == whole[::97].tolist()
        assert np.ndim(draws[5]) == 0 and draws[5].dtype == np.int64
        np.testing.assert_array_equal(draws[1799:3:-7], whole[1799:3:-7])
        np.testing.assert_array_equal(draws[-4:], whole[-4:])
        assert draws[positions[:0]].shape == (0, 5) and draws[9:9].shape == (0,)
        assert len(draws) == 1800


def test_longer_than_a_chunk():
    """Catches: chunks that overlap or leave a gap."""
    n = CHUNK + 17
    assert len(np.unique(plan(np.ones(n), n, 0, 0)[:])) == n
    rates = np.where(np.arange(n) % 2, 1.0, 3.0)
    assert np.bincount(plan(rates, int(rates.sum()), 0, 0)[:], minlength=n).tolist() == rates.tolist()


def test_survives_pickling_and_is_small():
    """Catches: a plan that holds a closure, or int64 lists."""
    n = 10_000
    for rates, limit in (
        (np.ones(n), 1000),
        (np.arange(n) % 2, 4 * n / 2 + 1000),
        (1 + np.arange(n) % 2, 4 * n + 1000),
    ):
        draws = plan(rates, n, 0, 0)
        packed = pickle.dumps(draws)
        assert len(packed) < limit
        np.testing.assert_array_equal(pickle.loads(packed)[:], draws[:])


@pytest.mark.parametrize("rates", [np.ones(50), [1.0, 2.0] * 25])
def test_orders_differ(rates):
    """Catches: seed + phase for a key; a key without the pass; one order for all passes."""
    arguments = list(itertools.product(range(4), range(4)))
    orders = {a: plan(rates, 100, *a)[:] for a in arguments}
    assert len({order.tobytes() for order in orders.values()}) == len(arguments)
    for order in orders.values():
        assert (order[:50] != order[50:]).any()
    # Places on which two orders agree are no more than chance allows: 2 of 100 on average.
    same = [(orders[a] == orders[b]).sum() for a, b in itertools.combinations(arguments, 2)]
    assert np.mean(same) < 4 and max(same) < 15


def test_orders_are_for_ever():
    """Catches: any change of the order: of hashes, rounds, keys, or the layout of the passes."""
    advice = (
        "The order of a plan has changed. Runs resumed from older checkpoints would read other blocks "
        "in mid-phase. Restore the order; or, if that is meant, say so in the release notes and renew this."
    )
    assert plan([1, 1, 0, 1, 1, 1], 8, seed=7, phase=2)[:].tolist() == [0, 5, 1, 4, 3, 1, 5, 3], advice
    assert plan([1, 2, 0, 3, 0.5], 9, seed=7, phase=2)[:].tolist() == [1, 3, 3, 1, 1, 3, 3, 0, 0], advice


def test_errors():
    """Catches: dropping a check; naming the last offender; positions that wrap round."""
    for bad, said in {-1.0: "-1.0", np.nan: "nan", np.inf: "inf"}.items():
        with pytest.raises(ValueError, match=rf"rates\[2\] is {said}, expected a finite number"):
            plan([1.0, 0.0, bad, bad], 3, 0, 0)
    with pytest.raises(ValueError, match=r"rates\[0\] to rates\[1\] are all 0"):
        plan([0.0, 0.0], 3, 0, 0)
    for empty in ([], [[1.0]], 1.0):
        with pytest.raises(ValueError, match=r"expected \[N\]"):
            plan(empty, 3, 0, 0)
    for num_draws in (0, -1):
        with pytest.raises(ValueError, match=f"num_draws is {num_draws}, expected at least 1"):
            plan([1.0], num_draws, 0, 0)
    with pytest.raises(ValueError, match="seed is 9223372036854775808, expected a signed 64-bit"):
        plan([1.0], 1, 2**63, 0)
    draws = plan([1.0, 1.0], 5, 0, 0)
    for position in (5, -1, np.array([0, 5]), np.array([[-1]])):
        with pytest.raises(IndexError, match="expected 0 to 4: the plan has 5 draws"):
            draws[position]
    for wrong in (1.0, np.array([True, False])):
        with pytest.raises(TypeError, match="expected integers"):
            draws[wrong]
