"""Domain reweighting by hand, and beside the rule of the authors' code."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

DOMAIN = [0, 0, 1, 1, 1, 3]  # 2, 3, 0 and 1 blocks
REF = [2.0, 3.0, 4.0, 4.0, 1.0, 5.0]


def start(**options):
    s = schedule.doremi(**options)
    return s, s.begin(s.init(schedule.BlockInfo(6, domain=DOMAIN, ref_loss=REF)), 0)


def after(s, state, losses, index):
    return s.begin(s.observe(state, jnp.arange(6), jnp.array(losses), index), index)


def authors(weights, excess, eta, eps):
    """`update_domain_weights` of doremi/trainer.py, written anew: one update from the mean excess of each domain."""
    logits = np.log(weights) + eta * np.array(excess)
    new = np.exp(logits - np.log(np.exp(logits).sum()))
    return (1 - eps) * new + eps / len(weights)


def test_two_rounds_by_hand():
    """Catches: a loss below the reference's that counts; a domain without blocks counted; weights of a domain that was
    not met; equal shares at first; a mean without the first shares; smoothing that is not shared by K."""
    s, state = start(rounds=5, eta=0.5, smoothing=0.1)
    np.testing.assert_allclose(np.delete(state.share, 2), [2 / 6, 3 / 6, 1 / 6])
    assert len(set(s.rates(state).tolist())) == 1
    # Excess 1, 0 → 0.5; −1 → 0, 1, 2 → 1; 0.
    state = after(s, state, [3.0, 2.0, 3.0, 5.0, 3.0, 5.0], 1)
    first = authors([2 / 6, 3 / 6, 1 / 6], [0.5, 1.0, 0.0], eta=0.5, eps=0.1)
    np.testing.assert_allclose(np.delete(state.share, 2), first, rtol=1e-3)
    np.testing.assert_allclose(first, [0.30479, 0.55617, 0.13904], atol=1e-5)
    # Domain 3 is not met, and keeps its 0. Domain 0: 2, domain 1: 0.
    state = after(s, state, [4.0, 5.0, 4.0, 3.0, 1.0, jnp.nan], 2)
    second = authors(first, [2.0, 0.0, 0.0], eta=0.5, eps=0.1)
    np.testing.assert_allclose(np.delete(state.share, 2), second, rtol=2e-3)
    np.testing.assert_allclose(
        np.delete(state.average, 2), np.mean([[2 / 6, 3 / 6, 1 / 6], first, second], 0), rtol=2e-3
    )
    np.testing.assert_allclose(
        s.rates(state) / s.rates(state).sum(), np.repeat(second / [2, 3, 1], [2, 3, 1]), rtol=2e-3
    )
    assert float(state.share[2]) == 0 and s.observe_train


def test_a_domain_that_was_never_met_has_the_largest_excess():
    """Catches: an excess of 0, by which a domain that is not met once is lost; no measurement at all that is one."""
    s, state = start(smoothing=0.0)
    unchanged = after(s, state, [jnp.nan] * 6, 1)
    np.testing.assert_array_equal(unchanged.share, state.share)
    state = after(s, state, [3.0, 4.0, 4.0, 4.0, 1.0, jnp.nan], 1)  # 1, 0 and unknown
    np.testing.assert_allclose(
        np.delete(state.share, 2), authors([2 / 6, 3 / 6, 1 / 6], [1, 0, 1], 1.0, 0.0), rtol=1e-3
    )


def test_weighing_is_what_drawing_is_in_expectation():
    """Catches: shares that count twice, in draws and in weights; weights of a block in place of its domain's."""
    losses = [3.0, 2.0, 3.0, 5.0, 3.0, 5.0]
    drawing, weighing = (start(eta=0.5, weigh=weigh) for weigh in (False, True))
    (s, drawn), (w, weighed) = ((s, after(s, state, losses, 1)) for s, state in (drawing, weighing))
    assert s.objective is None and (np.asarray(w.rates(weighed)) == 1).all()
    counts = np.asarray(w.rates(weighed) * schedule.objective_weights(w, weighed))
    np.testing.assert_allclose(counts / counts.sum(), s.rates(drawn) / s.rates(drawn).sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="weigh is 'yes', expected True or False"):
        schedule.doremi(weigh="yes")


def test_extreme_losses_and_one_domain():
    """Catches: inf − inf in the logarithms; ln of one domain."""
    s, state = start(eta=1e30)
    state = after(s, state, [3e38, 3e38, 3e38, 3e38, 3e38, 9.0], 1)
    assert np.isfinite(s.rates(state)).all()
    alone = s.init(schedule.BlockInfo(2, domain=[0, 0], ref_loss=[1.0, 1.0]))
    alone = s.begin(s.observe(alone, jnp.arange(2), jnp.array([2.0, 3.0]), 0), 1)
    np.testing.assert_allclose(s.rates(alone), 1.0)


@pytest.mark.parametrize(
    "options, info, error",
    [
        (dict(eta=-1.0), {}, "eta is -1.0, expected a number from 0"),
        (dict(smoothing=2), {}, "smoothing is 2, expected a share: 0 to 1"),
        (dict(by="source"), {}, "by is 'source', expected one of 'domain', 'cluster'"),
        ({}, dict(domain=DOMAIN), "doremi needs BlockInfo.ref_loss"),
        ({}, dict(ref_loss=REF), "doremi needs BlockInfo.domain"),
    ],
)
def test_mistakes_are_named(options, info, error):
    """Catches: shares that fall with the excess; a need that the message does not name."""
    with pytest.raises(ValueError, match=error):
        schedule.doremi(**options).init(schedule.BlockInfo(6, **info))
