"""Online data mixing by hand, and by the rule of the authors' code."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

DOMAIN = [0, 0, 0, 1, 3]  # 3, 1, 0 and 1 blocks: K = 3
NAN = math.nan
THERE = np.array([0, 1, 3])


def begun(s, state, losses, index):
    """The state in phase `index`, after every block was measured in the phase before it."""
    losses = jnp.array(losses, jnp.float32)
    return s.begin(s.observe(state, jnp.arange(len(losses)), losses, index), index)


def test_the_authors_rule():
    """Catches: a division by the share; L in place of e^L; a softmax of the estimates; ε of rounds in place of steps,
    without the warm-up, or of the step before; a round 1 that is not the natural mix; losses of the warm-up as rewards;
    a domain without blocks counted; the moving average without its old part; losses of an earlier round counted again.

    The numbers are those of SmoothedMeanWeightUpdater.group_update, with 0.9, at iterations 300, 500 and 700.
    """
    s = schedule.odm(rounds=6, decay=0.9, warmup=100)
    assert [tuple(phase) for phase in s.phases[:2]] == [("warmup", 0, 100, False), ("round.1", 100, 300, False)]
    state = s.begin(s.init(schedule.BlockInfo(5, domain=DOMAIN)), 0)
    assert s.rates(state).tolist() == [1.0] * 5
    state = begun(s, state, [9.0, 9.0, 9.0, 1.0, 1.0], 1)
    assert s.rates(state).tolist() == [1.0] * 5

    # Mean losses 4, 2, 6; then 2, not met, 3; then 2.5, 3.5, 3. ε is 0.034938, 0.027063, 0.022872.
    losses = [[3.0, 4.0, 5.0, 2.0, 6.0], [2.0, 2.0, 2.0, NAN, 3.0], [2.5, 2.5, 2.5, 3.5, 3.0]]
    shares = [[0.139953, 0.049150, 0.810897], [0.143233, 0.042248, 0.814519], [0.148428, 0.102051, 0.749520]]
    estimates = [[5.4598, 0.7389, 40.3429], [5.6527, 0.7389, 38.3171], [6.3057, 3.9766, 36.4940]]
    for index, (losses_N, share_K, estimate_K) in enumerate(zip(losses, shares, estimates), start=2):
        state = begun(s, state, losses_N, index)
        np.testing.assert_allclose(state.share[THERE], share_K, rtol=2e-3)
        np.testing.assert_allclose(state.estimate[THERE], estimate_K, rtol=2e-3)
    assert state.share[2] == 0
    rate_N = np.asarray(s.rates(state))
    np.testing.assert_allclose(rate_N / rate_N.sum(), [0.148428 / 3] * 3 + [0.102051, 0.749520], rtol=2e-3)


def test_exp3_by_hand():
    """Catches: rewards without importance weights; ε of the wrong round, or of K draws a round; natural shares in
    round 1; the exponents of the step's own ε."""
    s = schedule.odm(rounds=6, reward="exp3")
    state = s.begin(s.init(schedule.BlockInfo(5, domain=DOMAIN)), 0)
    np.testing.assert_allclose(state.share, [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-3)
    # R = 0.5 · L / (1/3) = 6, 3, 9, and ε_0 R = 2, 1, 3, whose softmax is 0.2447, 0.0900, 0.6652.
    # T = 200: ε_1 = sqrt(ln 3 / 600) = 0.04279, 1 − 3 ε_1 = 0.87163.
    state = begun(s, state, [3.0, 4.0, 5.0, 2.0, 6.0], 1)
    np.testing.assert_allclose(state.estimate[THERE], [6, 3, 9], rtol=1e-3)
    np.testing.assert_allclose(state.share[THERE], [0.25610, 0.12126, 0.62263], rtol=1e-3)
    # R = 3 + 1 / 0.2561, 3, 4.5 + 1.5 / 0.62263. ε_2 = sqrt(ln 3 / 1200) = 0.03026; exponents ε_1 R.
    state = begun(s, state, [2.0, 2.0, 2.0, NAN, 3.0], 2)
    np.testing.assert_allclose(state.estimate[THERE], [6.9047, 3.0, 6.9091], rtol=2e-3)
    np.testing.assert_allclose(state.share[THERE], [0.34970, 0.30054, 0.34976], rtol=2e-3)


def test_one_reward_moves_the_shares_and_the_other_hardly_does():
    """Catches: the two rewards exchanged. Losses are 2, 3, 4 and 2.5 in ten rounds."""
    last = {}
    for reward in ("smoothed_mean", "exp3"):
        s = schedule.odm(reward=reward)
        state = s.begin(s.init(schedule.BlockInfo(4, domain=[0, 1, 2, 3])), 0)
        for index in range(1, 10):
            state = begun(s, state, [2.0, 3.0, 4.0, 2.5], index)
        last[reward] = np.asarray(state.share)
    np.testing.assert_allclose(last["smoothed_mean"], [0.087, 0.215, 0.562, 0.136], atol=2e-3)
    np.testing.assert_allclose(last["exp3"], [0.240, 0.252, 0.263, 0.246], atol=2e-3)


@pytest.mark.parametrize("reward", ["smoothed_mean", "exp3"])
def test_no_domain_is_lost_and_one_domain_gets_all(reward):
    """Catches: no exploration; ln 1 = 0 dividing; ε that does not fall; e^L that overflows; 0/0 without a loss."""
    s = schedule.odm(rounds=12, round_steps=3, reward=reward)
    state = s.begin(s.init(schedule.BlockInfo(5, domain=DOMAIN)), 0)
    state = begun(s, state, [NAN] * 5, 1)
    assert not np.isnan(state.share).any()
    least = []
    for index in range(2, 12):
        state = begun(s, state, [1e30, 1e30, 1e30, 1.0, 1.0], index)
        least.append(float(jnp.min(state.share[THERE])))
    assert least[-1] > np.sqrt(np.log(3) / 3 / 33) - 1e-3 and least[-1] < least[2] < 0.334
    assert s.observe_train and float(state.share[0]) > 0.4
    alone = s.begin(s.init(schedule.BlockInfo(2, domain=[0, 0])), 0)
    for index in range(1, 4):
        alone = begun(s, alone, [1.0, 2.0], index)
        assert s.rates(alone).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "options, error",
    [
        (dict(decay=1.0), "decay is 1.0, expected a share: at least 0, less than 1"),
        (dict(rounds=0), "rounds is 0, expected at least 1"),
        (dict(by="source"), "by is 'source', expected one of 'domain', 'cluster'"),
        (dict(reward="loss"), "reward is 'loss', expected one of 'smoothed_mean', 'exp3'"),
        (dict(warmup=-1), "warmup is -1, expected at least 0"),
    ],
)
def test_mistakes_are_named(options, error):
    """Catches: a moving average that never moves; a policy of no rounds; a reward that is taken for another."""
    with pytest.raises(ValueError, match=error):
        schedule.odm(**options)
