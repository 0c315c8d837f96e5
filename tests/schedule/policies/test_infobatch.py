"""InfoBatch: fewer easy blocks, weighed up."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

LOSSES = [2.0, 6.0, 3.0, 5.0, 1.0, 7.0]  # the mean is 4


def begun(s, losses, index=1):
    state = s.init(schedule.BlockInfo(len(losses)))
    state = s.observe(state, jnp.arange(len(losses)), jnp.array(losses, jnp.float32), 3)
    return s.begin(state, index)


def weights(s, state, ids):
    return schedule.objective_weights(s, state, jnp.array(ids)).tolist()


def test_by_hand():
    """Catches: the hard ones dropped; weights 1 − ρ, 1/ρ or of all blocks; weights of places in the batch."""
    s = schedule.infobatch(drop=0.2)
    state = begun(s, LOSSES)
    np.testing.assert_allclose(s.rates(state), [0.8, 1, 0.8, 1, 0.8, 1])
    np.testing.assert_allclose(
        weights(s, state, [5, 0, 2, 1, 0]), np.array([1, 1.25, 1.25, 1, 1.25]) * 5.4 / 6, rtol=1e-6
    )


def test_the_authors_rule():
    """Catches: a median for the mean; other weights than theirs, up to a factor that all blocks share.

    The numbers are those of InfoBatch.prune with prune_ratio 0.75: of the samples below the mean, 4, a quarter is kept,
    with weight 4, and the others have weight 1.
    """
    losses, theirs = [1.0, 2.0, 2.5, 2.5, 3.0, 13.0], np.array([4.0, 4.0, 4.0, 4.0, 4.0, 1.0])
    s = schedule.infobatch(drop=0.75)
    state = begun(s, losses)
    np.testing.assert_allclose(s.rates(state), 1 / theirs)
    ours = np.array(weights(s, state, range(6)))
    np.testing.assert_allclose(ours / theirs, ours[5], rtol=1e-6)
    # Theirs have the mean N / Σr = 2.67 over what is drawn, and 1 while annealing; ours have 1.
    np.testing.assert_allclose([np.average(x, weights=1 / theirs) for x in (ours, theirs)], [1, 6 / 2.25], rtol=1e-6)


def test_unmeasured_blocks_and_the_mean_itself():
    """Catches: NaN in the mean, or counted as easy; "at most the mean" for "below" it; padding weighed as a block."""
    s = schedule.infobatch(drop=0.5)
    state = begun(s, [2.0, np.nan, 4.0, 6.0, np.inf])
    assert s.rates(state).tolist() == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert weights(s, state, [0, 1, -1, 5]) == pytest.approx([2.0 * 0.9, 0.9, 0.0, 0.0])
    assert s.rates(begun(s, [0.1] * 7)).tolist() == [1.0] * 7
    last = begun(s, [9.0, 1.0])  # the last block is easy, and −1 is not it
    assert weights(s, last, [-1, 1]) == [0.0, 1.5]


def test_first_and_last_rounds_draw_everything():
    """Catches: annealing a round too early or late; weights kept in the last rounds."""
    s = schedule.infobatch(rounds=5, anneal=2, first=8, later=4, last=2)
    names = ["round.1", "round.2", "round.3", "anneal.1", "anneal.2"]
    assert [p.name for p in s.phases] == names and [p.stop for p in s.phases] == [8, 12, 16, 18, 20]
    for index, dropping in enumerate([False, True, True, False, False]):
        state = begun(s, LOSSES, index)
        assert min(s.rates(state)) == (0.5 if dropping else 1.0)
        assert max(weights(s, state, range(6))) == (1.5 if dropping else 1.0)
    assert s.observe_train and not any(p.score for p in s.phases)


@pytest.mark.parametrize("num_draws", [9, 30])  # a round is 6 + 0.5 · 6 = 9 draws
def test_the_weighted_sum_is_unbiased(num_draws):
    """Catches: weights that do not undo the rates; the same blocks dropped whatever the seed."""
    losses, seeds = np.array(LOSSES + LOSSES), 150
    s = schedule.infobatch(drop=0.5)
    state = begun(s, losses)
    rates_N = np.asarray(s.rates(state))
    weight_N = np.array(weights(s, state, range(12)))
    plans = (schedule.plan(rates_N, num_draws, seed, phase=1)[:] for seed in range(seeds))
    counts = np.array([np.bincount(draws, minlength=12) for draws in plans])
    if num_draws == 9:  # every hard block once, three of the six easy ones
        assert (counts[:, losses > 4] == 1).all() and (counts[:, losses < 4] <= 1).all()
    per_round = num_draws / 12
    # A weighted count has a deviation of at most 1.5 · 0.5.
    np.testing.assert_allclose((counts * weight_N).mean(0), per_round, atol=3 / seeds**0.5)
    sums = (counts * weight_N) @ losses
    assert abs(sums.mean() - per_round * losses.sum()) < 4 * sums.std() / seeds**0.5
    assert abs((counts @ losses).mean() - per_round * losses.sum()) > 5 * per_round  # without weights


def test_errors():
    """Catches: checks left out; a probability of 1, whose weight is infinite."""
    for bad in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"drop is {bad}, expected a share of the blocks: at least 0, less than 1"):
            schedule.infobatch(drop=bad)
    with pytest.raises(ValueError, match="anneal is 8, expected at most 7, as there are 8 rounds"):
        schedule.infobatch(anneal=8)
