"""Online data mixing by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

DOMAIN = [0, 0, 0, 1, 3]  # 3, 1, 0 and 1 blocks: K = 3


def observed(s, state, losses, step):
    return s.observe(state, jnp.arange(len(losses)), jnp.array(losses), step)


def test_two_rounds_by_hand():
    """Catches: a domain without blocks counted; rewards without importance weights; ε of the wrong round; the
    moving average without its old part; losses of an earlier round counted again."""
    s = schedule.odm(rounds=6, decay=0.5)
    state = s.begin(s.init(schedule.BlockInfo(5, domain=DOMAIN)), 0)
    np.testing.assert_allclose(s.rates(state), [1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3], rtol=1e-3)

    # T = 3, ε_1 = min(1/3, sqrt(ln 3 / 9)) = 1/3: equal shares still. R = 0.5 · L / (1/3) of mean losses 4, 2, 6.
    state = s.begin(observed(s, state, [3.0, 4.0, 5.0, 2.0, 6.0], 1), 1)
    np.testing.assert_allclose(np.delete(state.reward, 2), [6, 3, 9], rtol=1e-3)
    np.testing.assert_allclose(state.share, [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-3)

    # Domain 1 is not met. R = 0.5 · 6 + 0.5 · 2 / (1/3) = 6, 3, and 0.5 · 9 + 0.5 · 3 / (1/3) = 9.
    # ε_1 R = 2, 1, 3; its softmax is 0.2447, 0.0900, 0.6652. ε_2 = sqrt(ln 3 / 18) = 0.24705, 1 − 3 ε_2 = 0.25885.
    state = s.begin(observed(s, state, [2.0, 2.0, 2.0, jnp.nan, 3.0], 2), 2)
    np.testing.assert_allclose(np.delete(state.reward, 2), [6, 3, 9], rtol=1e-3)
    np.testing.assert_allclose(state.share, [0.31040, 0.27035, 0, 0.41925], rtol=1e-3)
    np.testing.assert_allclose(s.rates(state), [0.31040 / 3] * 3 + [0.27035, 0.41925], rtol=1e-3)


def test_no_domain_is_lost_and_one_domain_gets_all():
    """Catches: no exploration; ln 1 = 0 dividing; ε that does not fall."""
    s = schedule.odm(rounds=12)
    state = s.init(schedule.BlockInfo(5, domain=DOMAIN))
    least = []
    for index in range(12):
        state = s.begin(observed(s, state, [9.0, 9.0, 9.0, 1.0, 1.0], index), index)
        least.append(float(jnp.min(state.share[jnp.array([0, 1, 3])])))
    assert least[-1] > np.sqrt(np.log(3) / 11) / 3 - 1e-3 and least[-1] < least[2] < 0.334
    assert s.observe_train and float(state.share[0]) > 0.4
    alone = s.init(schedule.BlockInfo(2, domain=[0, 0]))
    for index in range(4):
        alone = s.begin(observed(s, alone, [1.0, 2.0], index), index)
        np.testing.assert_allclose(s.rates(alone), 0.5)


@pytest.mark.parametrize(
    "options, error",
    [
        (dict(decay=1.0), "decay is 1.0, expected a share: at least 0, less than 1"),
        (dict(rounds=0), "rounds is 0, expected at least 1"),
        (dict(by="source"), "by is 'source', expected one of 'domain', 'cluster'"),
    ],
)
def test_mistakes_are_named(options, error):
    """Catches: a moving average that never moves; a policy of no rounds."""
    with pytest.raises(ValueError, match=error):
        schedule.odm(**options)
