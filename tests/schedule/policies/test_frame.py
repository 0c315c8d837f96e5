"""Four quadrants by hand, and how they blend."""

import numpy as np
import pytest

from lfr_jax import schedule


def parts(s, weak, strong):
    """The blocks that each phase draws."""
    state = s.init(schedule.BlockInfo(len(weak), weak_loss=np.float32(weak), strong_loss=np.float32(strong)))
    return [np.flatnonzero(s.rates(s.begin(state, i))).tolist() for i in range(len(s.phases))]


def test_quadrants_by_hand():
    """Catches: another order of the quadrants; high and low PD exchanged; PPL of the weak model; medians off by one."""
    # block    0    1    2    3    4    5    6    7
    strong = [1.0, 5.0, 6.0, 2.0, 7.0, 3.0, 4.0, 8.0]  # the median lies between 4 and 5: 1, 2, 4, 7 are high
    weak = [1.5, 9.0, 6.2, 5.0, 7.1, 3.3, 9.0, 12.0]  # less strong: .5 4 .2 3 .1 .3 5 4; 1, 3, 6, 7 are high
    # Q3 (low PD, high PPL): 2, 4. Q4 (both high): 1, 7. Q1 (both low): 0, 5. Q2 (high PD, low PPL): 3, 6.
    assert parts(schedule.frame(rounds=4, width=0), weak, strong) == [[2, 4], [1, 7], [0, 5], [3, 6]]
    # PD itself, (PPL_w − PPL_s) / PPL_w, splits as w − s does.
    ppl_w, ppl_s = np.exp(weak), np.exp(strong)
    pd = (ppl_w - ppl_s) / ppl_w
    assert np.flatnonzero(pd > np.median(pd)).tolist() == [1, 3, 6, 7]


def losses(n, seed=0):
    """Weak and strong losses such that the quadrants differ in size."""
    rng = np.random.default_rng(seed)
    strong = rng.gamma(4, 1, n)
    return strong + rng.gamma(2, 1, n) * (0.5 + 0.2 * strong), strong


@pytest.mark.parametrize("n, rounds", [(1000, 16), (37, 5), (16, 16), (1, 3), (5, 16)])
def test_every_block_is_used_once(n, rounds):
    """Catches: parts that overlap or differ in size by more than one; a phase of no block where blocks are few."""
    drawn = parts(schedule.frame(rounds=rounds), *losses(n))
    sizes = [len(part) for part in drawn]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert sorted({i for part in drawn for i in part}) == list(range(n))
    if n >= rounds:
        assert sum(sizes) == n


def test_transitions_are_sigmoid():
    """Catches: a transition that is hard, or another width; the mixing applied to one side alone."""
    n, rounds, width = 1 << 15, 64, 0.03
    weak, strong = losses(n)
    drawn = parts(schedule.frame(rounds=rounds, width=width), weak, strong)
    high_ppl = strong >= np.sort(strong)[n // 2]
    high_pd = weak - strong >= np.sort(weak - strong)[n // 2]
    quadrant = np.where(high_ppl, np.where(high_pd, 1, 0), np.where(high_pd, 3, 2))
    edges = np.concatenate([[0], np.cumsum(np.bincount(quadrant) / n)])
    assert len(set(np.round(np.diff(edges), 2))) > 1  # or the example would not tell edges from quarters
    for index in range(8, rounds - 8):  # at the ends, there is nothing to blend with
        time = (index + 0.5) / rounds
        rises = 1 / (1 + np.exp(-(time - edges) / width))
        found = np.bincount(quadrant[drawn[index]], minlength=4) / len(drawn[index])
        np.testing.assert_allclose(found, rises[:-1] - rises[1:], atol=0.09)


def test_the_seed_decides_who_goes_early():
    """Catches: the seed left out; one random number for both the place and the blending."""
    one, same, other = (parts(schedule.frame(seed=seed), *losses(200)) for seed in (0, 0, 1))
    assert one == same != other


def test_mistakes_are_named():
    """Catches: parts that int8 cannot number; one loss taken for the other where it is missing."""
    with pytest.raises(ValueError, match="rounds is 128, expected at most 127"):
        schedule.frame(rounds=128)
    with pytest.raises(ValueError, match="width is -0.1, expected a number from 0 to 1e30"):
        schedule.frame(width=-0.1)
    with pytest.raises(ValueError, match="frame needs BlockInfo.strong_loss, one number for each block; found None"):
        schedule.frame().init(schedule.BlockInfo(2, weak_loss=np.ones(2)))
