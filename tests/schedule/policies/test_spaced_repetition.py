"""Growing intervals by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

NAN = float("nan")


def rounds(s, *losses):
    """The blocks that each round draws, if these are its losses (NaN: not met)."""
    state = s.begin(s.init(schedule.BlockInfo(len(losses[0]))), 0)
    drawn = [np.flatnonzero(s.rates(state)).tolist()]
    for index, losses_N in enumerate(losses, start=1):
        state = s.observe(state, jnp.arange(len(losses_N)), jnp.array(losses_N), index)
        state = s.begin(state, index)
        drawn.append(np.flatnonzero(s.rates(state)).tolist())
    return drawn


def test_intervals_by_hand():
    """Catches: intervals that grow at once, or not; due one round early or late; forgotten blocks that wait; the first
    loss compared."""
    s = schedule.spaced_repetition(rounds=9, growth=2.0, tolerance=0.5)
    drawn = rounds(
        s,
        # 0: forgotten in round 6. 1: forgotten in round 1. 2: its loss rises within the tolerance.
        [9.0, 5.0, 3.0],  # round 0: all for the first time, due in round 1
        [8.0, 5.6, 3.4],  # round 1: 0 and 2 after 2 rounds, in 3; 1 is forgotten, in 2
        [NAN, 5.5, NAN],  # round 2: 1 is remembered, again in 4
        [7.0, NAN, 3.0],  # round 3: 0 and 2 after 4 rounds, in 7
        [NAN, 5.4, NAN],  # round 4: 1 after 4 rounds, in 8
        [NAN, NAN, NAN],  # round 5: none is due, 0 and 2 are soonest, but were not met
        [7.6, NAN, 3.2],  # round 6: the same, and they were met; 0 is forgotten, in 7; 2 after 8 rounds, in 14
    )
    assert drawn == [[0, 1, 2], [0, 1, 2], [1], [0, 2], [1], [0, 2], [0, 2], [0]]


def test_intervals_of_a_block_that_is_never_forgotten():
    """Catches: another factor by default; the second interval of SuperMemo 2, whose intervals are 1, 6, 15, 38."""
    s = schedule.spaced_repetition(rounds=40)
    state = s.begin(s.init(schedule.BlockInfo(1)), 0)
    intervals = []
    for index in range(1, 5):
        state = s.begin(s.observe(state, jnp.arange(1), jnp.array([5.0 - index]), index), index)
        intervals.append(int(state.interval[0]))
    assert intervals == [1, 3, 8, 20]


def test_blocks_that_were_not_met_stay_due():
    """Catches: an interval that starts without a measurement; overdue blocks forgotten."""
    s = schedule.spaced_repetition(rounds=6, growth=3.0)
    drawn = rounds(s, [1.0, NAN, NAN], [1.0, 2.0, NAN], [NAN, 2.0, NAN], [NAN, NAN, 3.0])
    assert drawn == [[0, 1, 2], [0, 1, 2], [1, 2], [2], [0, 2]]


def test_intervals_round_up_and_end_with_the_run():
    """Catches: intervals rounded down, so that a growth of 1.5 never leaves 1; int16 that overflows."""
    s = schedule.spaced_repetition(rounds=5, growth=1.5)
    assert rounds(s, [1.0, 3.0], [1.0, 4.0])[2] == [1]
    s = schedule.spaced_repetition(rounds=8, growth=1e9)
    state = s.begin(s.init(schedule.BlockInfo(1)), 0)
    for index in range(1, 8):
        state = s.begin(s.observe(state, jnp.arange(1), jnp.ones(1), index), index)
        assert 1 <= int(state.interval[0]) <= 8 and int(state.due[0]) >= index - 1
    assert s.observe_train


@pytest.mark.parametrize(
    "options, error",
    [
        (dict(growth=0.9), "growth is 0.9, expected a factor from 1 to 1e30"),
        (dict(tolerance=-1), "tolerance is -1, expected a number from 0 to 1e30"),
        (dict(rounds=10_001), "rounds is 10001, expected at most 10000"),
    ],
)
def test_mistakes_are_named(options, error):
    """Catches: intervals that shrink when a block is remembered; rounds that int16 cannot number."""
    with pytest.raises(ValueError, match=error):
        schedule.spaced_repetition(**options)
