"""In-Run Data Shapley, worked by hand; and that its values are those of what a step does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule


def observed(s, state, step, dots, rate=1.0):
    ids, dots = jnp.array(list(dots)), jnp.array(list(dots.values()), jnp.float32)
    return s.observe(state, ids, jnp.ones(len(ids)), step, grad_dot=dots, learning_rate=jnp.float32(rate))


def drawn(s, state):
    return np.flatnonzero(s.rates(state)).tolist()


def test_by_hand():
    """Catches: the newest step alone; a mean over steps; the learning rate left out; the paper's sign; a block that was
    not drawn taken for one that does harm; the first round not over all."""
    s = schedule.data_shapley(keep=0.2, rounds=3)
    state = s.init(schedule.BlockInfo(6))
    state = observed(s, state, 0, {0: 1.0, 1: -1.0, 2: 0.5}, rate=0.5)
    state = observed(s, state, 1, {0: -2.0, 1: 4.0, 3: -1.0}, rate=0.25)
    assert drawn(s, s.begin(state, 0)) == list(range(6))
    state = s.begin(state, 1)
    # 0: 0.5 − 0.5 = 0 · 1: −0.5 + 1 · 2: 0.25 · 3: −0.25 · 4 and 5 were not drawn
    assert drawn(s, state) == [0, 1, 2, 4, 5]
    state = observed(s, state, 2, {0: -1.0, 1: -3.0, 2: 1.0, 4: 1.0, 5: -1.0}, rate=0.125)
    # 0: −0.125 · 1: 0.5 − 0.375 · 2: 0.375 · 3 as before · 4: 0.125 · 5: −0.125
    assert drawn(s, s.begin(state, 2)) == [1, 2, 4]


def test_a_step_that_is_told_twice_counts_once():
    """Catches: a sum that grows when a step is told again; a step without a number that ends a block's sum."""
    s = schedule.data_shapley(keep=0.25, rounds=2)
    state = observed(s, s.init(schedule.BlockInfo(4)), 0, {0: 3.0, 1: -3.0, 2: 1.0, 3: 1.0})
    state = observed(s, state, 5, {0: -2.0, 1: 2.0})
    state = observed(s, state, 5, {0: -2.0, 1: 2.0})
    assert drawn(s, s.begin(state, 1)) == [0, 2, 3]
    state = observed(s, state, 6, {0: np.nan, 1: np.nan, 2: -0.5})
    assert drawn(s, s.begin(state, 1)) == [0, 2, 3]


def test_some_are_kept_whatever_they_do():
    """Catches: a phase of nothing; the worst blocks kept in place of the best."""
    s = schedule.data_shapley(keep=0.5, rounds=2)
    state = observed(s, s.init(schedule.BlockInfo(4)), 0, {0: -1.0, 1: -4.0, 2: -2.0, 3: -3.0})
    assert drawn(s, s.begin(state, 1)) == [0, 2]
    with pytest.raises(ValueError, match="keep is 0"):
        schedule.data_shapley(keep=0)


def test_values_are_shapley_values_of_a_small_step():
    """A linear model, two steps: each block's part of the fall of the held-out loss, averaged over all orders in which
    the blocks of a step may join it. Catches: a factor, such as 1/B or the learning rate twice; the sign."""
    rng = np.random.default_rng(0)
    x_NxD, y_N, held_x, held_y = rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=3), 0.5

    def loss(w, x, y):
        return (x @ w - y) ** 2

    gradient = jax.grad(loss)
    rate, w = 1e-3, jnp.zeros(3)
    s = schedule.data_shapley()
    state, shapley_N = s.init(schedule.BlockInfo(4)), np.zeros(4)
    for step, batch in enumerate([(0, 1, 2), (1, 2, 3)]):
        of_blocks = {i: np.asarray(gradient(w, x_NxD[i], y_N[i])) for i in batch}
        dots = {i: float(g @ gradient(w, held_x, held_y)) for i, g in of_blocks.items()}
        state = observed(s, state, step, dots, rate)
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
            at = np.asarray(w, np.float64)
            for i in (batch[k] for k in order):
                after = at - rate * of_blocks[i]
                shapley_N[i] += (loss(at, held_x, held_y) - loss(after, held_x, held_y)) / 6
                at = after
        w = w - rate * sum(of_blocks.values())
    found_N = state.newest.loss + np.nan_to_num(state.before.loss)
    np.testing.assert_allclose(found_N, shapley_N, rtol=0.02, atol=0.02 * np.abs(shapley_N).max())
