"""Other shares at the end."""

import numpy as np
import pytest

from lfr_jax import schedule


def test_natural_first_then_by_weights():
    """Catches: weights from the start; the share of the steps counted from the front; uniform shares of blocks."""
    s = schedule.domain_upsampling(steps=200, last=0.15, weights=[1, 3])
    assert [(p.name, p.start, p.stop) for p in s.phases] == [("natural", 0, 170), ("upsampled", 170, 200)]
    state = s.init(schedule.BlockInfo(10, domain=[0] * 9 + [1]))
    assert s.rates(s.begin(state, 0)).tolist() == [1] * 10
    counts_N = np.bincount(schedule.plan(s.rates(s.begin(state, 1)), 360, seed=0, phase=1)[:])
    assert counts_N.tolist() == [10] * 9 + [270]


def test_by_default_every_domain_gets_as_much():
    """Catches: a default that raises nothing."""
    s = schedule.domain_upsampling()
    rate_N = s.rates(s.begin(s.init(schedule.BlockInfo(4, domain=[0, 0, 0, 1])), 1))
    np.testing.assert_allclose(rate_N / rate_N.sum(), [1 / 6] * 3 + [1 / 2], rtol=1e-6)


@pytest.mark.parametrize("last", [0.0, 1.0, 0.001])
def test_both_phases_last_a_step(last):
    """Catches: a phase of no step, or one that ends before it starts."""
    with pytest.raises(ValueError, match=f"last is {last} of 100 steps, expected a share that leaves a step before"):
        schedule.domain_upsampling(steps=100, last=last)
