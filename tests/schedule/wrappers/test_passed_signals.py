"""Signals, token weights and loss weights through every wrapper."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

INFO = schedule.BlockInfo(4, domain=np.array([0, 1, 0, 1]))


class Seen(NamedTuple):
    drawn: jax.Array
    norm: jax.Array
    progress: jax.Array


def observe(state, ids_B, losses_B, step, *, grad_norm, progress):
    own_B = ids_B >= 0
    return state._replace(norm=state.norm + jnp.sum(jnp.where(own_B, grad_norm, 0.0)), progress=progress)


def token_weights(state, ids_B, losses_BxT, *, progress):
    return jnp.where((ids_B >= 0)[:, None], losses_BxT * progress, 7.0)


def watching():
    plain = schedule.uniform(4)
    return plain._replace(
        init=lambda info: Seen(jnp.ones(info.num_blocks, bool), jnp.float32(0), jnp.float32(0)),
        observe=observe,
        extra=("grad_norm", "progress"),
        token_weights=token_weights,
        observe_train=True,
    )


WRAPPERS = {
    "floor": schedule.floor,
    "cap_noise": schedule.cap_noise,
    "unbiased": schedule.unbiased,
    "stratified": schedule.stratified,
    "chain": lambda s: schedule.chain(s, schedule.lfr(scores="train")),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_signals_reach_the_policy(wrapper):
    """Catches: signals that a wrapper drops, or gives to a stage that did not ask; a group that sees others."""
    s = WRAPPERS[wrapper](watching())
    assert s.extra == ("grad_norm", "progress")
    signals = dict(grad_norm=jnp.array([1.0, 2.0, 4.0]), progress=jnp.float32(0.5))
    state = jax.jit(s.observe)(s.begin(s.init(INFO), 0), jnp.array([3, 0, 1]), jnp.ones(3), 0, **signals)
    found = [x for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Seen)) if isinstance(x, Seen)]
    assert [float(x.norm) for x in found] == ([2.0, 5.0] if wrapper == "stratified" else [7.0])
    assert all(x.progress == 0.5 for x in found)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_token_weights_reach_the_trainer(wrapper):
    """Catches: token weights lost in a wrapper, of another stage, or of another group."""
    s = WRAPPERS[wrapper](watching())
    state, losses_BxT = s.begin(s.init(INFO), 0), jnp.array([[2.0, jnp.nan], [4.0, 6.0]])
    weights_BxT = s.token_weights(state, jnp.array([3, 0]), losses_BxT, progress=jnp.float32(0.5))
    np.testing.assert_array_equal(weights_BxT, losses_BxT / 2)
    assert schedule.floor(schedule.lfr()).token_weights is None
    if wrapper == "chain":
        weights_BxT = s.token_weights(s.begin(state, 1), jnp.array([3, 0]), losses_BxT, progress=jnp.float32(0.5))
        assert weights_BxT.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_loss_weights_within_each_group_of_a_policy_that_looks_at_no_id():
    """Catches: the lowest and highest loss of the whole batch, as `linupper` finds them unless others are NaN."""
    s, ids, losses = (
        schedule.stratified(schedule.linupper()),
        jnp.array([0, 1, 2, 3]),
        jnp.array([1.0, 10.0, 2.0, 20.0]),
    )
    state = s.begin(s.init(INFO), 1)
    weights_B = s.loss_weights(state, ids, losses)
    alone = schedule.linupper()
    one = alone.begin(alone.init(schedule.BlockInfo(2)), 1)
    for own in (slice(0, None, 2), slice(1, None, 2)):
        np.testing.assert_allclose(weights_B[own], alone.loss_weights(one, jnp.arange(2), losses[own]))
