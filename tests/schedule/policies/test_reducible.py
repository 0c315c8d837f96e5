"""Reducible loss, worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

REF = np.array([1.0, 7.5, 2.0, 3.0, 0.5, 4.0])


def start(**options):
    s = schedule.reducible(**options)
    return s, s.init(schedule.BlockInfo(6, ref_loss=REF, domain=np.array([0, 0, 0, 1, 1, 1])))


def measure(s, state, losses, step):
    return s.observe(state, jnp.array(list(losses)), jnp.array(list(losses.values()), jnp.float32), step)


def drawn(s, state):
    return np.flatnonzero(s.rates(state)).tolist()


def test_by_hand():
    """Catches: the loss alone (block 1 is noise); reference less loss; a share of keep dropped; stale losses."""
    s, state = start(keep=0.34, rounds=3)  # ceil(0.34 · 6) = 3
    assert drawn(s, s.begin(state, 0)) == list(range(6))
    # 2 − 1 = 1, 8 − 7.5 = 0.5, 5 − 2 = 3, 4.5 − 3 = 1.5, 0.7 − 0.5 = 0.2, 3 − 4 = −1
    state = measure(s, state, dict(enumerate([2.0, 8.0, 5.0, 4.5, 0.7, 3.0])), 10)
    state = s.begin(state, 1)
    assert drawn(s, state) == [0, 2, 3]
    # 0.5, 0.5, 0.1, 0.2, 0.2, 0.9: now 5, 0 and 1 have most to give.
    state = measure(s, state, dict(enumerate([1.5, 8.0, 2.1, 3.2, 0.7, 4.9])), 20)
    assert drawn(s, s.begin(state, 2)) == [0, 1, 5]


def test_unmeasured_blocks():
    """Catches: a domain's mean loss less the block's own reference, which calls easy text reducible."""
    losses = {0: 2.0, 2: 5.0, 3: 4.5, 5: 3.0}  # differences 1, 3 in domain 0; 1.5, −1 in domain 1
    s, state = start(keep=0.5)
    assert drawn(s, s.begin(measure(s, state, losses, 10), 1)) == [1, 2, 4]  # 1 and 4 not known
    # Block 1 gets 2 and block 4 gets 0.25; by mean losses they would be −4 and 3.25.
    s, state = start(keep=0.5, unmeasured="domain")
    assert drawn(s, s.begin(measure(s, state, losses, 10), 1)) == [1, 2, 3]


def test_phases_and_errors():
    """Catches: a scoring pass in the first round, or none later; the array that is needed not named."""
    s = schedule.reducible(first=8, later=4, rounds=3)
    assert [tuple(p) for p in s.phases] == [
        ("round.1", 0, 8, False),
        ("round.2", 8, 12, True),
        ("round.3", 12, 16, True),
    ]
    assert not s.observe_train and schedule.reducible(scores="train").observe_train
    with pytest.raises(ValueError, match="reducible needs BlockInfo.ref_loss"):
        s.init(schedule.BlockInfo(6, weak_loss=REF))
    with pytest.raises(ValueError, match="keep is 0"):
        schedule.reducible(keep=0)
