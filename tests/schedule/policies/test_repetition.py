"""Epochs by quality, by hand and against what they maximise."""

import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.schedule.policies.repetition import DECAY, allotted


def epochs(quality, **options):
    s = schedule.repetition(**options)
    return np.asarray(s.rates(s.init(schedule.BlockInfo(len(quality), columns=dict(quality=quality)))), np.float64)


def value(worth_N, epochs_N):
    """Σ v D(e): what the draws are worth, in new tokens."""
    repeated = np.maximum(epochs_N - 1, 0)
    return np.sum(np.exp(worth_N) * (np.minimum(epochs_N, 1) + DECAY * (1 - np.exp(-repeated / DECAY))), axis=-1)


def test_by_hand():
    """Catches: scores that are not in standard deviations; a mean that is not `epochs`; blocks below the threshold."""
    # z = −1, 1; tilt · z = −0.2, 0.2. Both are read if 1 + 15.39 (−0.2 − μ) ≥ 1, so from μ = −0.2 on: e = 1, 7.16, in
    # the mean 4.08. With a mean of 2, only the better one is read: 4 times.
    np.testing.assert_allclose(epochs([1.0, 2.0], epochs=2.0, tilt=0.2), [0, 4], rtol=1e-6)
    # With 6: both, with a difference of 0.4 · 15.39 = 6.155.
    np.testing.assert_allclose(epochs([1.0, 2.0], epochs=6.0, tilt=0.2), [6 - 3.0776, 6 + 3.0776], rtol=1e-4)
    # With `most` = 8: 6 · 2 − 8 = 4 are left for the other.
    np.testing.assert_allclose(epochs([1.0, 2.0], epochs=6.0, tilt=0.2, most=8.0), [4, 8], rtol=1e-6)
    # Between 3.58 and 4.08 in the mean, the block on the threshold is read less than once: 4 · 2 − 7.155 = 0.845 times.
    np.testing.assert_allclose(epochs([1.0, 2.0], epochs=4.0, tilt=0.2), [0.845, 7.155], rtol=1e-3)


def test_blocks_of_one_quality_share_alike():
    """Catches: ties that one block wins; a budget that is missed where many blocks are on the threshold."""
    np.testing.assert_allclose(epochs([2.0] * 5, epochs=0.3), 0.3, rtol=1e-5)
    np.testing.assert_allclose(epochs([1.0, 1.0, 2.0, 2.0], epochs=0.25), [0, 0, 0.5, 0.5], rtol=1e-5)
    assert (epochs([1.0, 2.0, 3.0], epochs=20.0) == 1).all()  # more than `most`: nothing to choose
    np.testing.assert_allclose(epochs([1.0, 2.0, 3.0], tilt=0.0, epochs=3.0), 3.0, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_no_exchange_of_draws_is_worth_more(seed):
    """Catches: a threshold that is not where a new block is worth as much as a repetition; another decay."""
    rng = np.random.default_rng(seed)
    worth_N = rng.normal(0, 0.3, 40).round(1)  # with ties
    mean, most = [(0.5, 10.0), (1.0, 3.0), (4.0, 10.0), (2.0, 2.5)][seed]
    epochs_N = allotted(worth_N, mean, most)
    np.testing.assert_allclose(epochs_N.mean(), mean, rtol=1e-9)
    assert (epochs_N >= 0).all() and (epochs_N <= most * (1 + 1e-12)).all()
    best = value(worth_N, epochs_N)
    for size in (1e-3, 0.1, 1.0):
        i, j = rng.integers(0, 40, (2, 500))
        moved = np.minimum(np.minimum(size, epochs_N[i]), most - epochs_N[j])
        others = np.tile(epochs_N, (500, 1))
        others[np.arange(500), i] -= moved
        others[np.arange(500), j] += moved * (i != j)
        others[np.arange(500), i] += moved * (i == j)
        assert (value(worth_N, others) <= best * (1 + 1e-12)).all()


def test_mistakes_are_named():
    """Catches: a budget of nothing; a cap that forbids one epoch; the column not named."""
    with pytest.raises(ValueError, match="epochs is 0, expected a positive number"):
        schedule.repetition(epochs=0)
    with pytest.raises(ValueError, match="most is 0.5, expected a factor from 1"):
        schedule.repetition(most=0.5)
    with pytest.raises(ValueError, match="repetition needs BlockInfo.*fluency"):
        schedule.repetition(column="fluency").init(schedule.BlockInfo(4))
