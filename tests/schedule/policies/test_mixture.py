"""Fixed shares for the domains."""

import numpy as np
import pytest

from lfr_jax import schedule

DOMAIN = [0, 0, 0, 0, 1, 1, 3, 3, 3]  # 4, 2, 0 and 3 blocks


def rates(s, index, **info):
    state = s.init(schedule.BlockInfo(len(DOMAIN), **(info or dict(domain=np.array(DOMAIN)))))
    return np.asarray(s.rates(s.begin(state, index)))


def test_shares_of_the_draws_by_hand():
    """Catches: weights of blocks in place of domains; sizes of all blocks; a stage before or after."""
    s = schedule.mixture([(10, [1, 2, 5, 3]), (20, [0, 1, 0, 1])])
    assert [(p.name, p.start, p.stop) for p in s.phases] == [("stage.1", 0, 10), ("stage.2", 10, 30)]
    counts_N = np.bincount(schedule.plan(rates(s, 0), 600, seed=0, phase=0)[:])
    assert counts_N.tolist() == [25] * 4 + [100] * 2 + [100] * 3  # 100, 200, none, 300
    np.testing.assert_allclose(rates(s, 1) / rates(s, 1).sum(), [0] * 4 + [1 / 4] * 2 + [1 / 6] * 3, rtol=1e-6)


def test_named_weights():
    """Catches: natural and equal exchanged; rates that rounding makes unequal; an empty domain that has a share."""
    natural = schedule.mixture()
    assert (rates(natural, 0) == 1).all()
    equal = rates(schedule.mixture([(1, "equal")]), 0)
    np.testing.assert_allclose(equal / equal.sum(), [1 / 12] * 4 + [1 / 6] * 2 + [1 / 9] * 3, rtol=1e-6)
    proportional = rates(schedule.mixture([(1, [0.4, 0.2, 0.0, 0.3])]), 0)
    assert (proportional == proportional[0]).all()


def test_extreme_weights_stay_finite():
    """Catches: weights that overflow or vanish in float32; the largest weight being that of an empty domain."""
    for weights in ([1e300, 1e299, 1e308, 0], [1e-300, 1e-300, 1.0, 0]):
        rate_N = rates(schedule.mixture([(1, weights)]), 0)
        assert np.isfinite(rate_N).all() and rate_N.any()
    assert rates(schedule.mixture([(1, [0, 1])], by="cluster"), 0, cluster=[0] * 8 + [1]).tolist() == [0] * 8 + [1]


@pytest.mark.parametrize(
    "stages, error",
    [
        ([], "mixture has no stages, expected at least one: its length and its weights"),
        ([(0, "equal")], "the length of phase 'stage.1' is 0, expected at least 1"),
        ([(5, "equal"), (5, "even")], "the weights of stage.2 are 'even', expected 'natural', 'equal' or numbers"),
        ([(5, [1, -1, 1, 1])], "the weights of stage.1 are .1, -1, 1, 1., expected a finite number, 0 or more"),
        ([(5, [1, float("nan"), 1, 1])], "the weights of stage.1 are"),
        ([(5, "equal"), (5, [1, 2, 3])], "stage.2 has 3 weights, expected 4: one for each domain"),
        ([(5, [0, 0, 1, 0])], "stage.1 has weights .*, but the domains with a positive weight have no blocks"),
    ],
)
def test_mistakes_are_named(stages, error):
    """Catches: any of the checks left out: 0/0, weights of other domains, an empty phase."""
    with pytest.raises(ValueError, match=error):
        rates(schedule.mixture(stages), 0)
