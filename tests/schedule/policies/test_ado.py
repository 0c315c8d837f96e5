"""Adaptive data optimization: the fit, and the shares that follow from it."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.schedule.policies.ado import preference, slope, updated


def power_law(times, floor, scale, exponent):
    return floor + scale * np.asarray(times, np.float32) ** -exponent


def test_the_fit_finds_power_laws():
    """Catches: ln L in place of ln(L − ε); α of the wrong sign; the worst ε; time from 0; unknown rounds counted."""
    laws = [(2.0, 2.0, 0.5), (0.0, 5.0, 0.3), (3.6, 0.4, 0.7)]
    loss_RxG = np.stack([power_law(range(1, 9), *law) for law in laws], axis=1)
    loss_RxG[[2, 5], 1] = np.nan
    loss_RxG[7] = np.nan  # the round to come
    # t · (−dL/dt) = α β t^−α at t = 8
    expected = [0.5 * 2 * 8**-0.5, 0.3 * 5 * 8**-0.3, 0.7 * 0.4 * 8**-0.7]
    np.testing.assert_allclose(slope(jnp.asarray(loss_RxG, jnp.float32), math.log(8)), expected, rtol=0.1)


def test_exponents_are_kept_within_bounds():
    """Catches: rising losses that make a negative preference; a flat one that makes none at all."""
    loss_RxG = jnp.array([[4.0, 1.0, 9.0], [4.0, 2.0, 3.0], [4.0, 4.0, 1.0], [4.0, 8.0, 0.3]])
    fall_G = np.asarray(slope(loss_RxG, math.log(4)))
    assert (fall_G > 0).all() and np.isfinite(fall_G).all() and fall_G.argmax() == 2
    assert fall_G[0] < 0.05 * 4


def test_preference_by_hand():
    """Catches: prior or credit left out; credit without its power; a least share that is not kept; empty domains."""
    # Falls are equal: 1 / √t each. Prior · √credit = 0.5 · 0.6, 0.25 · 0.8, 0.25 · 0 -> 0.6, 0.4, 0; at least 0.1.
    loss_RxG = jnp.array([power_law(range(1, 5), 0, 1, 0.5)] * 4).T
    prior_G, credit_G = jnp.array([0.5, 0.25, 0.25, 0.0]), jnp.array([0.36, 0.64, 0.0, 0.0])
    found_G = preference(loss_RxG, prior_G, credit_G, math.log(4), 0.5, 0.1)
    np.testing.assert_allclose(found_G, [0.6 / 1.1, 0.4 / 1.1, 0.1 / 1.1, 0], rtol=1e-5)


def test_shares_by_hand():
    """Catches: the new preference in the average of the shares; averages over the wrong number of rounds."""
    preferred_G, credit_G, average_G = jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])
    new_credit_G, new_average_G, share_G = updated(preferred_G, credit_G, average_G, 3, 0.5, 0.25)
    np.testing.assert_allclose(share_G, [0.25 * 0.75 + 0.75 * 0.25, 0.25 * 0.25 + 0.75 * 0.75], rtol=1e-3)
    np.testing.assert_allclose(new_average_G, [0.25 + 0.5 / 4, 0.75 - 0.5 / 4], rtol=1e-3)
    np.testing.assert_allclose(new_credit_G, 0.5 * share_G + 0.25, rtol=1e-3)


def test_a_run():
    """Catches: deciding before three rounds; rates that are not exactly equal until then; losses filed under the wrong
    round; the slow domain preferred."""
    s = schedule.ado(rounds=8)
    state = s.init(schedule.BlockInfo(7, domain=[0, 0, 0, 2, 2, 2, 2]))
    shares = []
    for index in range(8):
        state = s.begin(state, index)
        if index < 3:
            assert s.rates(state).tolist() == [1.0] * 7
        shares.append(float(state.share[2]))
        losses = np.repeat([4.0, power_law([index + 1], 1, 5, 0.5)[0]], [3, 4]) + [-0.5, 0, 0.5, -1, 1, -1, 1]
        state = s.observe(state, jnp.arange(7), jnp.asarray(losses, jnp.float32), index)
    np.testing.assert_allclose(state.loss[:7, 0], 4, rtol=1e-5)
    np.testing.assert_allclose(state.loss[:7, 2], power_law(range(1, 8), 1, 5, 0.5), rtol=1e-5)
    assert np.isnan(state.loss[7]).all() and np.isnan(state.loss[:, 1]).all()
    assert all(np.diff(shares[2:]) > 0) and shares[-1] > 0.75 and s.observe_train
    rate_N = s.rates(state)
    np.testing.assert_allclose(rate_N[:3].sum() / rate_N.sum(), 1 - shares[-1], atol=1e-3)


def test_mistakes_are_named():
    """Catches: a share that is none; a policy of no rounds."""
    with pytest.raises(ValueError, match="smoothing is 1.5, expected a share: 0 to 1"):
        schedule.ado(smoothing=1.5)
    with pytest.raises(ValueError, match="rounds is 0, expected at least 1"):
        schedule.ado(rounds=0)
