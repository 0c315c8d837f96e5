"""Every block counts alike."""

import jax.numpy as jnp
import numpy as np

from lfr_jax import schedule


def with_rates(rate_N):
    return schedule.linupper()._replace(rates=lambda state: jnp.asarray(rate_N, jnp.float32))


def test_weights_undo_the_rates():
    """Catches: weights not normalised, or over blocks that are never drawn; a weight for these; rates that change."""
    s = schedule.unbiased(with_rates([1, 0, 4, 1]))
    assert s.rates(None).tolist() == [1, 0, 4, 1]
    assert schedule.objective_weights(s, None).tolist() == [2.0, 0.0, 0.5, 2.0]
    np.testing.assert_allclose(schedule.weight_variance(s, None), (2 * 4 + 4 / 4) / 6 - 1, rtol=1e-6)


def test_rules_within_a_batch_stay():
    """Catches: loss weights of the policy that are dropped; an objective of its own that is kept."""
    inner = with_rates([1, 2])._replace(objective=lambda state: jnp.array([5.0, 1.0]))
    s = schedule.unbiased(inner)
    assert s.loss_weights is inner.loss_weights and s.objective(None).tolist() == [1.0, 1.0]
