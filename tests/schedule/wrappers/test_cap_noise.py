"""The blocks of the highest loss are left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

LFR = schedule.lfr(learn=4, focus=2, review=3, focus2=1, reps=1, drop=0.5, drop2=0.75)


def drawn(s, state, index):
    return np.flatnonzero(s.rates(s.begin(state, index))).tolist()


def test_the_noisiest_are_left_out_in_every_phase():
    """Catches: the easiest left out; only restricted phases capped; noise decided by `observe` at once."""
    s = schedule.cap_noise(LFR, top=0.25)
    state = s.init(schedule.BlockInfo(8))
    assert drawn(s, state, 0) == list(range(8))  # nothing known yet
    state = s.observe(state, jnp.arange(8), jnp.array([1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0]), 4)
    np.testing.assert_array_equal(s.rates(state), 1)
    # Hard: 1 3 5 7. Noise: ⌊0.25 · 8⌋ = 2 blocks, 1 and 3.
    assert drawn(s, state, 1) == [5, 7]
    assert drawn(s, state, 2) == [0, 2, 4, 5, 6, 7]
    # Block 1 is measured again, and no longer noise; 5 is next to 3.
    assert drawn(s, s.observe(state, jnp.array([1]), jnp.array([0.5]), 7), 2) == [0, 1, 2, 4, 6, 7]


def test_a_share_of_the_blocks_that_are_known():
    """Catches: the share of all blocks; unmeasured blocks taken for noise; 28 of 0.29 · 100."""
    s = schedule.cap_noise(schedule.uniform(), top=0.29)
    ids, observe = jnp.arange(1000), jax.jit(s.observe)
    for known in (1, 3, 4, 100, 700):
        state = observe(s.init(schedule.BlockInfo(1000)), jnp.where(ids < known, ids, -1), ids, 0)
        assert drawn(s, state, 0) == [*range(known - 29 * known // 100), *range(known, 1000)]


def test_a_policy_that_draws_noise_alone_is_left_to_it():
    """Catches: rates that are all 0."""
    s = schedule.cap_noise(LFR, top=0.75)
    state = s.observe(s.init(schedule.BlockInfo(4)), jnp.arange(4), jnp.array([1.0, 4.0, 3.0, 2.0]), 4)
    assert drawn(s, state, 1) == [1, 2]
    assert drawn(s, state, 0) == [0]


def test_blocks_met_first_are_not_noise():
    """Catches: losses of training taken as they are, though they fall as the model learns."""
    n = 1024
    s = schedule.cap_noise(LFR._replace(observe_train=True), top=0.5)
    state = s.init(schedule.BlockInfo(n))
    for step in range(32):  # the loss falls from 10 to 5; odd blocks are half a nat above the others
        ids = jnp.arange(step * 32, step * 32 + 32)
        state = s.observe(state, ids, 10 - step * 5 / 32 + 0.5 * (ids % 2), step)
    left_out = np.setdiff1d(np.arange(n), drawn(s, state, 0))
    assert len(left_out) == n // 2 and (left_out % 2).mean() > 0.95


def test_the_rest_is_the_policys():
    """Catches: loss weights or training losses lost on the way; a pass asked for on its own account."""
    weighing = schedule.uniform()._replace(loss_weights=lambda state, ids_B, losses_B: losses_B, observe_train=True)
    s = schedule.cap_noise(weighing)
    assert s.observe_train and s.loss_weights(s.init(schedule.BlockInfo(2)), jnp.arange(2), jnp.ones(2)).sum() == 2
    assert schedule.cap_noise(LFR).phases == LFR.phases and schedule.cap_noise(LFR).loss_weights is None
    for top in (-0.1, 1.0, 2):
        with pytest.raises(ValueError, match=f"top is {top}, expected a share of the blocks: at least 0, less than 1"):
            schedule.cap_noise(LFR, top)
