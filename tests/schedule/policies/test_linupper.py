"""LinUpper: weights from the losses in a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule


def weights(losses, index=1, **options):
    s = schedule.linupper(**options)
    state = s.begin(s.init(schedule.BlockInfo(3)), index)
    return np.asarray(s.loss_weights(state, jnp.zeros(len(losses), jnp.int32), jnp.array(losses, jnp.float32)))


def test_by_hand():
    """Catches: no cap; high losses weighed down; a sum of 1; a range from 0; the temperature upside down."""
    # From 1 to 9 the middle is 5. f: 0 at 1, 1/4 at 2, 3/4 at 4, 1 at 6 and 9.
    losses = [6.0, 1.0, 2.0, 9.0, 4.0]
    e = np.exp(np.array([1.0, 0.0, 0.25, 1.0, 0.75]) / 0.5)
    np.testing.assert_allclose(weights(losses, temperature=0.5), 5 * e / e.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "temperature, expected",
    [(1.0, [0.53366, 0.68523, 0.87985, 1.45063, 1.45063]), (0.4, [0.16274, 0.30404, 0.56802, 1.98260, 1.98260])],
)
def test_the_authors_rule(temperature, expected):
    """Catches: any departure from h = (2ℓ − max − min) / (max − min), f = min(h + 1, 1), w ∝ exp(f / τ).

    The numbers are B times those of h_func, f_func_linupper and g_func, with `kl_reg` of GPT-2 with 12 and 24 layers.
    """
    np.testing.assert_allclose(weights([2.0, 2.5, 3.0, 4.0, 6.0], temperature=temperature), expected, rtol=1e-4)


@pytest.mark.parametrize("loss", [0.0, 2.5, np.finfo(np.float32).max])
@pytest.mark.parametrize("size", [1, 4])
def test_equal_losses_have_weight_1(loss, size):
    """Catches: 0/0 for a range of 0, as in a batch of one."""
    assert weights([loss] * size).tolist() == [1.0] * size


def test_losses_that_are_none_have_weight_0_and_change_nothing():
    """Catches: NaN in every weight; infinity as the highest loss; a mean over the rows of padding too."""
    with_gaps = weights([np.nan, 1.0, 2.0, np.inf, 5.0])
    np.testing.assert_array_equal(with_gaps[[0, 3]], 0)
    np.testing.assert_allclose(with_gaps[[1, 2, 4]], weights([1.0, 2.0, 5.0]), rtol=1e-6)
    assert abs(with_gaps.sum() - 3) < 1e-5
    assert weights([np.nan, np.nan]).tolist() == [0.0, 0.0]


def test_the_first_phase_does_not_weigh_and_every_block_is_drawn():
    """Catches: weights from the first step; weights that last into another run of the first phase; phases swapped."""
    s = schedule.linupper(warmup=5, weighted=7)
    assert [tuple(p) for p in s.phases] == [("warmup", 0, 5, False), ("weighted", 5, 12, False)]
    assert weights([1.0, 5.0], 0).tolist() == [1.0, 1.0]
    state = s.begin(s.begin(s.init(schedule.BlockInfo(3)), 1), 0)
    assert not state.weighted and s.rates(state).tolist() == [1.0] * 3
    assert not s.observe_train
    for bad in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature is {bad}, expected a positive number"):
            schedule.linupper(temperature=bad)


def test_no_gradient_is_nan():
    """Catches: a weight whose derivative is NaN, where a trainer differentiates through it."""
    s = schedule.linupper()
    state = s.begin(s.init(schedule.BlockInfo(3)), 1)

    def loss(x_B):
        return jnp.sum(s.loss_weights(state, jnp.zeros(3, jnp.int32), jax.lax.stop_gradient(x_B)) * x_B)

    assert np.isfinite(jax.grad(loss)(jnp.full(3, 2.0))).all()
