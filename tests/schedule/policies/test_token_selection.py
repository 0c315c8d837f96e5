"""Selection of tokens, worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax import schedule

NAN = np.nan
LOSSES = np.array([[1.0, 6.0, NAN, 3.0], [5.0, 2.0, 4.0, NAN]], np.float32)


def weights(losses, **options):
    signals = {name: options.pop(name) for name in ("ref_token_losses",) if name in options}
    s = schedule.token_selection(**options)
    state = s.begin(s.init(schedule.BlockInfo(3)), 0)
    return np.asarray(s.token_weights(state, jnp.array([2, 0]), jnp.asarray(losses), **signals))


def test_by_hand():
    """Catches: the share of all places, not of those with a target; the easiest tokens; a choice within each block."""
    # 6 targets: ceil(0.4 · 6) = 3, of the losses 6, 5, 4. Their weights are 6 / 3.
    assert weights(LOSSES, keep=0.4).tolist() == [[0, 2, 0, 0], [2, 0, 2, 0]]


def test_excess_by_hand():
    """Catches: the reference less the loss; the magnitude of the difference; a token without a reference chosen."""
    reference = np.array([[0.5, 7.0, NAN, 1.0], [6.0, NAN, 1.0, 2.0]], np.float32)
    # 0.5, −1, none, 2; −1, none, 3, none: 5 differences, and 2 of them are kept
    found = weights(LOSSES, keep=0.4, by="excess", ref_token_losses=reference)
    assert found.tolist() == [[0, 0, 0, 2.5], [0, 0, 2.5, 0]]
    assert schedule.token_selection(by="excess").extra == ("ref_token_losses",)
    assert schedule.token_selection().extra == ()


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.5, 1.0])
def test_the_weighted_mean_is_the_conditional_value_at_risk(keep):
    """The mean of the k highest losses: what ESLM minimizes. Catches: a sum that is divided by all targets."""
    losses = np.random.default_rng(0).gamma(4, 1, (8, 16)).astype(np.float32)
    losses[3, 5:] = NAN
    known = np.sort(losses[~np.isnan(losses)])[::-1]
    k = int(np.ceil(np.float32(keep) * known.size))
    factors = weights(losses, keep=keep)
    np.testing.assert_allclose(np.nansum(factors * losses) / known.size, known[:k].mean(), rtol=1e-5)
    assert (factors > 0).sum() == k


@pytest.mark.parametrize("value", [0.0, 2.5, np.finfo(np.float32).max])
def test_equal_losses_leave_as_many(value):
    """Catches: a threshold that all or none are above."""
    assert (weights(np.full((2, 5), value, np.float32), keep=0.5) > 0).sum() == 5


def test_a_batch_without_targets_has_no_weight():
    """Catches: 0/0."""
    assert weights(np.full((2, 3), NAN, np.float32)).tolist() == [[0.0] * 3] * 2


def test_the_same_on_a_mesh():
    """Catches: a choice within each device's rows."""
    losses = np.random.default_rng(1).gamma(4, 1, (8, 6)).astype(np.float32)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        found = weights(jax.device_put(losses, NamedSharding(mesh, P("data"))), keep=0.5)
    np.testing.assert_array_equal(found, weights(losses, keep=0.5))


def test_mistakes_are_named():
    """Catches: a share of 0, of which nothing is left; any word for what it goes by."""
    for bad, error in [(dict(keep=0), "keep is 0"), (dict(by="entropy"), "by is 'entropy', expected one of 'loss'")]:
        with pytest.raises(ValueError, match=error):
            schedule.token_selection(**bad)
