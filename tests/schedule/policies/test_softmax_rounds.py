"""Rounds by the softmax of the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.schedule.policies.softmax_rounds import draw


def begun(s, losses, index=1):
    state = s.init(schedule.BlockInfo(len(losses)))
    state = s.observe(state, jnp.arange(len(losses)), jnp.array(losses, jnp.float32), 3)
    return np.asarray(s.rates(s.begin(state, index)))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_subsets_are_as_likely_as_without_replacement(temperature):
    """Catches: noise that is not Gumbel's; a temperature upside down; probabilities with replacement."""
    losses = np.array([0.0, 1.0, 2.0])
    e = np.exp(losses / temperature)
    p = e / e.sum()
    # Two of three, in either order: p_i p_j / (1 − p_i) + p_j p_i / (1 − p_j), named by the one left out.
    want = [sum(p[i] * p[j] / (1 - p[i]) for i, j in ((a, b), (b, a))) for a, b in ((1, 2), (0, 2), (0, 1))]
    seeds = 20_000
    losses_3 = jnp.array(losses, jnp.float32)
    marks = jax.vmap(lambda seed: draw(losses_3, {"phase": 1}, 0.6, temperature, seed))
    left_out = ~np.asarray(marks(jnp.arange(seeds)))
    assert (left_out.sum(1) == 1).all()
    np.testing.assert_allclose(left_out.mean(0), want, atol=4 * 0.5 / seeds**0.5)


def test_a_temperature_stands_for_the_authors_batches():
    """Catches: a temperature that multiplies the losses; one that is applied to its root.

    The authors' rule: batches of 8 random blocks, half of them drawn without replacement by the softmax of their mean
    losses. With losses of 3.5 ± 0.66 nats, the mean of what is drawn is 0.0375 higher (400 draws, ± 0.0004); that of
    single blocks, 0.264.
    """
    losses_N = jnp.asarray(np.random.default_rng(0).normal(3.5, 0.66, 4096), jnp.float32)
    for temperature, expected in ((8.0, 0.0375), (1.0, 0.264)):
        masks = [np.asarray(draw(losses_N, {"phase": 1}, 0.5, temperature, seed)) for seed in range(12)]
        higher = [losses_N[mask].mean() - losses_N.mean() for mask in masks]
        np.testing.assert_allclose(np.mean(higher), expected, atol=0.01)


def test_each_round_draws_its_share_afresh():
    """Catches: the first round choosing; one draw for all rounds or seeds; floor in place of ceil."""
    n = 1000
    s = schedule.softmax_rounds(rounds=3, keep=0.3005)
    first, second, third = (begun(s, [2.0] * n, index) for index in range(3))
    assert first.sum() == n and second.sum() == third.sum() == 301
    other = begun(schedule.softmax_rounds(rounds=3, keep=0.3005, seed=1), [2.0] * n)
    for drawn in (third, other):
        assert (second * drawn).sum() < 130  # 90 by chance
    assert (begun(s, [2.0] * n) == second).all()


def test_unmeasured_blocks_come_first_and_the_hard_before_the_easy():
    """Catches: NaN + noise sorted as noise; the sign of the loss."""
    rates = begun(schedule.softmax_rounds(keep=0.5), [9.0, np.nan, 50.0, 1.0, 60.0, 0.0])
    assert rates.tolist() == [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]


def test_phases_and_errors():
    """Catches: a scoring pass for losses that were recorded; rounds miscounted; checks left out."""
    s = schedule.softmax_rounds(first=8, later=4, rounds=3)
    assert [tuple(p) for p in s.phases] == [
        ("round.1", 0, 8, False),
        ("round.2", 8, 12, False),
        ("round.3", 12, 16, False),
    ]
    assert s.observe_train
    assert [p.score for p in schedule.softmax_rounds(scores="pass").phases] == [False, True]
    for bad in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"keep is {bad}, expected a share of the blocks: more than 0, at most 1"):
            schedule.softmax_rounds(keep=bad)
    for bad in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature is {bad}, expected a positive number"):
            schedule.softmax_rounds(temperature=bad)
