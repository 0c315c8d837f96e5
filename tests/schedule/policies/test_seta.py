"""SeTa: a window from easy to hard."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule


def begun(s, losses, index):
    state = s.init(schedule.BlockInfo(len(losses)))
    state = s.observe(state, jnp.arange(len(losses)), jnp.array(losses, jnp.float32), 3)
    return np.flatnonzero(s.rates(s.begin(state, index))).tolist()


def test_the_window_by_hand():
    """Catches: hard to easy; a window that stands, jumps, or runs off the end; annealing in the window."""
    s = schedule.seta(drop=0.0, groups=5, window=3, rounds=7, anneal=1)
    # From the easiest, two in a group: 7 5 | 2 0 | 8 4 | 1 9 | 3 6
    losses = [4.0, 7.0, 3.0, 9.0, 6.0, 2.0, 9.5, 1.0, 5.0, 8.0]
    everything, last = list(range(10)), [1, 3, 4, 6, 8, 9]
    middle, first = [0, 1, 2, 4, 8, 9], [0, 2, 4, 5, 7, 8]
    want = [everything, middle, last, first, middle, last, everything]
    assert [begun(s, losses, index) for index in range(7)] == want


def test_the_authors_rule():
    """Catches: a window that begins at the easiest group in round 2; one that turns back at the end.

    The numbers are those of SeTa.prune at iterations 0 to 4, with 5 groups and a window of 4 (window_scale 0.9). In the
    first losses, k-means finds five pairs, so groups are alike. In the second, it finds groups of 6, 1 and 1.
    """
    pairs = [1.0, 9.1, 3.0, 3.1, 5.1, 5.0, 7.0, 1.1, 7.1, 9.0]
    without_hardest, without_easiest = [0, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 8, 9]
    want = [list(range(10)), without_easiest, without_hardest, without_easiest, without_hardest]
    s = schedule.seta(drop=0.0, groups=5, window=4, rounds=5, anneal=0)
    assert [begun(s, pairs, index) for index in range(5)] == want
    # Where groups differ in size, theirs draw 2 and 7 of the 8 blocks, and ours 6 and 6.
    skewed = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 5.0, 9.0]
    s = schedule.seta(drop=0.0, groups=3, window=2, rounds=3, anneal=0)
    assert [begun(s, skewed, index) for index in (1, 2)] == [[2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]]


def test_edges_are_rounded_outwards():
    """Catches: a window with no block; edges rounded to the nearest."""
    s = schedule.seta(drop=0.0, groups=4, window=1, rounds=5, anneal=0)
    # 2 blocks in 4 groups: ranks [0.5, 1), [1, 1.5), [1.5, 2), [0, 0.5)
    assert [begun(s, [1.0, 2.0], index) for index in range(1, 5)] == [[0], [1], [1], [0]]
    assert [begun(s, [1.0], index) for index in range(5)] == [[0]] * 5


def test_a_part_is_left_out_at_random_before_the_window():
    """Catches: the easiest left out; one part for all rounds or seeds; the window over all blocks."""
    n = 1000
    s = schedule.seta(drop=0.2, groups=4, window=2, rounds=4, anneal=1)
    losses = np.random.default_rng(0).permutation(n)
    kept = [set(begun(s, losses, index)) for index in range(4)]
    assert [len(x) for x in kept] == [800, 400, 400, 800]
    assert abs(np.mean(losses[list(kept[0])]) - 499.5) < 4 * 289 / 800**0.5
    assert len(kept[0] & kept[3]) < 680  # 640 by chance
    assert len(kept[0] & set(begun(schedule.seta(drop=0.2, seed=1), losses, 0))) < 680
    # Round 2: the second and third quarter of the 800, that is of the losses between 250 and 750.
    inside = losses[list(kept[1])]
    assert 230 < inside.min() < 270 and 730 < inside.max() < 770
    assert abs(len(inside) / (inside.max() - inside.min()) - 0.8) < 0.05


def test_unmeasured_blocks_are_in_the_last_group():
    """Catches: NaN counted as easy."""
    s = schedule.seta(drop=0.0, groups=2, window=1, rounds=4, anneal=1)
    assert begun(s, [np.nan, 1.0, 2.0, np.nan], 1) == [0, 3]
    assert begun(s, [np.nan, 1.0, 2.0, np.nan], 2) == [1, 2]


def test_phases_and_errors():
    """Catches: lengths exchanged; checks left out."""
    s = schedule.seta(first=9, later=4, last=8, rounds=4, anneal=1)
    assert [(p.name, p.stop) for p in s.phases] == [("round.1", 9), ("round.2", 13), ("round.3", 17), ("anneal", 25)]
    assert s.observe_train and not any(p.score for p in s.phases)
    with pytest.raises(ValueError, match="window is 6 groups, expected at most 5"):
        schedule.seta(groups=5, window=6)
    with pytest.raises(ValueError, match="groups is 0"):
        schedule.seta(groups=0)
    with pytest.raises(ValueError, match="window is 0"):
        schedule.seta(window=0)
    with pytest.raises(ValueError, match="drop is 1.0"):
        schedule.seta(drop=1.0)
