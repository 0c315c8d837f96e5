"""A policy within each group."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

SHORT = dict(learn=4, focus=2, review=3, focus2=1, reps=1)
LFR = schedule.lfr(**SHORT, drop=0.5)
LOSS = schedule.scored(LFR.phases, (None,) + (lambda loss_N, info: loss_N,) * 3, dtype=jnp.float32)


def focus(s, domain, losses):
    state = s.init(schedule.BlockInfo(len(domain), domain=np.array(domain)))
    state = s.observe(state, jnp.arange(len(domain)), jnp.array(losses, jnp.float32), 4)
    return s.rates(s.begin(state, 1)).tolist()


def test_each_group_chooses_among_its_own():
    """Catches: one choice over all; blocks of a group exchanged; groups by their number, with one missing."""
    s = schedule.stratified(LFR)
    # Domain 4: 10 20 30 40 at 1, 2, 5, 7. Domain 0: 1 2 3 4 at 0, 3, 4, 6. No domain 1 to 3.
    assert focus(s, [0, 4, 4, 0, 0, 4, 0, 4], [4, 10, 20, 3, 2, 30, 1, 40]) == [1, 0, 0, 1, 0, 1, 0, 1]


def test_counts_that_round_the_same_share_leave_equal_rates():
    """Catches: general rates out of mere rounding, which would end shuffled epochs."""
    # drop = 0.5 keeps 2 of 3, 3 of 5, and 1 of 1: each a half, rounded up.
    rate_N = focus(schedule.stratified(LFR), [0] * 3 + [1] * 5 + [2], range(9))
    assert rate_N == [0, 1, 1, 0, 0, 1, 1, 1, 1]


def test_small_groups_get_more_where_their_share_is_rounded_up():
    """Catches: a page that says the groups keep their natural share where they do not."""
    rate_N = focus(schedule.stratified(LFR), [0] * 5 + [1, 2, 3], range(8))
    assert rate_N == [0, 0, 1, 1, 1] + [1] * 3  # 3 of 6 draws, and 3 of 8 blocks


def test_groups_keep_their_natural_share():
    """Catches: a group's mean over the corpus; rates left as the policy has them, where they are not equal."""
    domain, losses = [0] * 4 + [1] * 6, [1, 1, 3, 3, 10, 10, 10, 10, 10, 70]
    rate_N = focus(schedule.stratified(LOSS), domain, losses)
    np.testing.assert_allclose(rate_N, [0.5, 0.5, 1.5, 1.5] + [0.5] * 5 + [3.5])
    # 0/1 rates, but shares that differ: half of domain 0, all of domain 1.
    half = schedule.scored(LFR.phases, (None,) + (lambda loss_N, info: loss_N > 2,) * 3)
    np.testing.assert_allclose(focus(schedule.stratified(half), domain, losses), [0, 0, 2, 2] + [1] * 6)


def test_clusters_and_what_is_known_of_blocks():
    """Catches: domains whatever `by` says; BlockInfo not cut to the group."""
    by_loss = schedule.scored(
        LFR.phases, (None,) + (lambda loss_N, info: info["ref_loss"],) * 3, needs=("ref_loss",), dtype=jnp.float32
    )
    s = schedule.stratified(by_loss, by="cluster")
    info = schedule.BlockInfo(4, cluster=[1, 0, 1, 0], domain=[0, 0, 0, 0], ref_loss=np.array([1.0, 2.0, 3.0, 6.0]))
    np.testing.assert_allclose(s.rates(s.begin(s.init(info), 1)), [0.5, 0.5, 1.5, 1.5])
    by_length, lengths = schedule.stratified(by_loss, by="length"), info._replace(length=[3, 0, 0, 3])
    np.testing.assert_allclose(by_length.rates(by_length.begin(by_length.init(lengths), 1)), [2 / 7, 0.8, 1.2, 12 / 7])
    with pytest.raises(ValueError, match="stratified needs BlockInfo.cluster, one number for each block; found None"):
        s.init(info._replace(cluster=None))
    with pytest.raises(ValueError, match="by is 'source', expected one of 'domain', 'cluster'"):
        schedule.stratified(LFR, by="source")


def test_loss_weights_within_each_group():
    """Catches: weights by the batch as a whole; those of another group; a weight for padding."""

    def to_mean(state, ids_B, losses_B):
        own_B = ids_B >= 0
        return losses_B / jnp.mean(losses_B, where=own_B)

    s = schedule.stratified(schedule.uniform()._replace(loss_weights=to_mean))
    state = s.init(schedule.BlockInfo(5, domain=[0, 0, 1, 1, 2]))
    weights_B = s.loss_weights(state, jnp.array([3, 0, 2, -1, 1]), jnp.array([30.0, 1.0, 10.0, 99.0, 3.0]))
    np.testing.assert_allclose(weights_B, [1.5, 0.5, 0.5, 0, 1.5])
    assert schedule.stratified(LFR).loss_weights is None
