"""From measurements to one loss for each block, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.schedule.arrays.estimate import estimate, shrunk
from lfr_jax.schedule.arrays.groups import fill

NAN = float("nan")


def known(*measurements):
    """Of each block the (step, loss) of its only measurement, or None."""
    measured = schedule.init_measured(len(measurements))
    for i, found in enumerate(measurements):
        if found is not None:
            measured = schedule.observe(measured, jnp.array([i]), jnp.array([found[1]]), found[0])
    return measured


def groups(*of):
    return schedule.Groups(jnp.array(of, jnp.int32), jnp.asarray(np.bincount(of), jnp.int32))


def test_each_kind_of_score():
    """Catches: stale losses in "pass"; a "train" that forgets; bins of a single block; a trend in "train"."""
    measured = known((0, 9.0), (0, 7.0), (30, 5.0), (30, 3.0), None)
    np.testing.assert_array_equal(estimate(measured, "pass"), [NAN, NAN, 5.0, 3.0, NAN])
    np.testing.assert_array_equal(estimate(measured, "train"), [9.0, 7.0, 5.0, 3.0, NAN])
    # One bin for five blocks: the trend is their mean, 6.
    for scores in ("detrended", "mixed"):
        np.testing.assert_array_equal(estimate(measured, scores), [3.0, 1.0, -1.0, -3.0, NAN])


def test_bins_hold_about_64_blocks():
    """Catches: a fixed number of bins; bins by the number of steps."""
    # 128 blocks, two bins of width 5: mean steps 0 and 9, mean losses 8 and 4. So the trend is right at both.
    loss = [8.0 + i % 3 - 1 for i in range(60)] + [4.0 + i % 2 - 0.5 for i in range(68)]
    step = [0] * 60 + [9] * 68
    measured = schedule.Measured(jnp.array(loss), jnp.array(step, jnp.int32), jnp.int32(0))
    want = [i % 3 - 1 for i in range(60)] + [i % 2 - 0.5 for i in range(68)]
    np.testing.assert_allclose(estimate(measured, "detrended"), want, atol=1e-5)


@pytest.mark.parametrize("scores", ["pass", "train", "detrended"])
def test_blocks_without_a_score_get_the_mean_of_their_group(scores):
    """Catches: the mean over all; old losses shrunk where nothing was asked; a group without any loss made up."""
    measured, of = known((9, 2.0), (9, 4.0), None, (9, 7.0), None, None), groups(0, 0, 0, 1, 1, 2)
    # Detrended too: in one bin, losses less the means of their groups have the mean 0.
    np.testing.assert_allclose(estimate(measured, scores, of), [2.0, 4.0, 3.0, 7.0, 7.0, NAN], atol=1e-6)


def test_the_trend_is_not_that_of_the_groups_drawn():
    """Catches: a trend of the losses as they are, which takes the late and hard group for early and easy."""
    # One domain is hard and was measured last, as in a Focus phase; within each, losses fall by 1 from step to step.
    n = 256
    of_N, step_N = np.arange(n) // (n // 2), np.arange(n) // (n // 4)
    own_N = np.tile([-0.25, 0.25], n // 2)
    loss_N = np.where(of_N == 0, 2.0, 9.0) - step_N % 2 + own_N
    measured = schedule.Measured(jnp.asarray(loss_N, jnp.float32), jnp.asarray(step_N, jnp.int32), jnp.int32(0))
    grouped_N = np.asarray(estimate(measured, "detrended", groups(*of_N)))
    assert grouped_N[of_N == 1].min() > grouped_N[of_N == 0].max() + 5
    plain_N = np.asarray(estimate(measured, "detrended"))
    assert plain_N[of_N == 1].mean() < plain_N[of_N == 0].mean() + 1


def test_mixed_by_hand():
    """Catches: old losses as they are; shrunk to the mean of all; the factor the wrong way up; fresh ones changed."""
    # Group 0. Fresh: 1, 3 (mean 2, sum of squares 2). Old: 2, 6 (mean 4, sum of squares 8).
    # Group 1. Fresh: 5, 5 (mean 5, 0). Old: 10, 10, 13 (mean 11, sum of squares 6).
    # Within groups, fresh: 2 / (1 + 1) = 1. Old: 14 / (1 + 2) = 14/3. So the factor is 3/14.
    x = jnp.array([1.0, 3.0, 2.0, 6.0, 5.0, 5.0, 10.0, 10.0, 13.0, NAN])
    fresh = jnp.array([True, True, False, False, True, True, False, False, False, False])
    of = groups(0, 0, 0, 0, 1, 1, 1, 1, 1, 1)
    want = [1.0, 3.0, 2 - 2 * 3 / 14, 2 + 2 * 3 / 14, 5.0, 5.0, 5 - 3 / 14, 5 - 3 / 14, 5 + 2 * 3 / 14, NAN]
    np.testing.assert_allclose(shrunk(x, fresh, of), want, atol=1e-6)
    # Through `estimate`: one bin, so that there is no trend, and the newest measurements are the fresh ones.
    measured = known(*[None if np.isnan(v) else (8 if new else 4, v) for v, new in zip(x.tolist(), fresh)])
    filled = np.array(fill(jnp.array(want, jnp.float32), of))
    np.testing.assert_allclose(estimate(measured, "mixed", of), filled, atol=1e-5)


def test_old_losses_are_never_spread_out():
    """Catches: a factor above 1, or 0, where old losses vary less; NaN where there is nothing to compare with."""
    x, of = jnp.array([1.0, 9.0, 4.0, 5.0]), groups(0, 0, 0, 0)
    fresh = jnp.array([True, True, False, False])
    np.testing.assert_allclose(shrunk(x, fresh, of), [1.0, 9.0, 4.5, 5.5])
    # One fresh loss has no variance: old ones move, and are not shrunk.
    np.testing.assert_allclose(shrunk(x, jnp.arange(4) == 0, of), [1.0, 4.0, -1.0, 0.0])


def test_without_fresh_losses_in_a_group_its_old_ones_stay():
    """Catches: NaN out of the mean of no fresh loss."""
    x, of = jnp.array([1.0, 3.0, 4.0, 6.0]), groups(0, 0, 1, 1)
    np.testing.assert_array_equal(shrunk(x, jnp.array([True, True, False, False]), of), x)
    np.testing.assert_array_equal(shrunk(x, jnp.zeros(4, bool), of), x)
    np.testing.assert_array_equal(shrunk(x, jnp.ones(4, bool), of), x)


def test_mixed_finds_hard_blocks_in_a_domain_that_was_learned_late():
    """Catches: one trend for domains that are learned at different times."""
    rng = np.random.default_rng(0)
    n, now = 2048, 1000
    domain_N, own_N = np.arange(n) % 2, rng.normal(0, 0.5, n)
    step_N = rng.integers(0, now, n)

    def loss(step_N):  # domain 1 falls from 8 to 3 at the end, domain 0 stays at 4
        return own_N + np.where(domain_N == 0, 4.0, np.where(step_N > 900, 3.0, 8.0))

    loss_N, sample_N = loss(step_N), rng.random(n) < 0.1
    loss_N, step_N = np.where(sample_N, loss(np.full(n, now)), loss_N), np.where(sample_N, now, step_N)
    measured = schedule.Measured(jnp.asarray(loss_N, jnp.float32), jnp.asarray(step_N, jnp.int32), jnp.int32(0))
    true_N = loss(np.full(n, now))
    mixed_N = estimate(measured, "mixed", groups(*domain_N))
    detrended_N = estimate(measured, "detrended")
    assert np.corrcoef(detrended_N, true_N)[0, 1] < 0.2
    assert np.corrcoef(mixed_N, true_N)[0, 1] > 0.8
