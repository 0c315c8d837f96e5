"""Trials of domains by hand, and beside the rule of the authors' code."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

DOMAIN = [0, 0, 1, 3]  # 2, 1, 0 and 1 blocks: K = 3


def authors(falls, one_hot):
    """`learn_params_subroutine` of trainer/aioli_trainer.py, written anew, with --aioli_normalize_A: A by solving."""
    k = len(falls)
    mixtures = np.full((k, k), (1 - one_hot) / (k - 1))
    np.fill_diagonal(mixtures, one_hot)
    law = np.array([np.linalg.solve(mixtures, row) for row in falls])
    law -= min(law.min(), 0)
    return law / law.sum()


def passed(s, state, index, losses):
    """Enters the phase after a scoring pass with these mean losses of the domains 0, 1 and 3."""
    of_blocks = [losses[0] - 0.5, losses[0] + 0.5, losses[1], losses[2]]
    return s.begin(s.observe(state, jnp.arange(4), jnp.array(of_blocks), s.phases[index].start), index)


def test_two_rounds_by_hand():
    """Catches: trials of a domain without blocks; the fall of the trial before; a law that is not solved; weights by
    rows of A; a round that starts from equal shares; the second sweep in place of the mean of both."""
    s = schedule.aioli(rounds=2, trials=6, one_hot=0.6, eta=1.0)
    state, loss = s.init(schedule.BlockInfo(4, domain=DOMAIN)), np.array([6.0, 5.0, 4.0])
    falls = np.random.default_rng(0).normal(0.2, 0.3, (2, 6, 3))
    mixture = np.ones(3) / 3
    for rnd in range(2):
        for trial in range(6):
            state = passed(s, state, 7 * rnd + trial, loss)
            tried = np.full(3, 0.2)
            tried[trial % 3] = 0.6
            np.testing.assert_allclose(np.delete(state.share, 2), tried, rtol=1e-5)
            loss = loss - falls[rnd, trial]
        state = passed(s, state, 7 * rnd + 6, loss)
        law = authors((falls[rnd, :3] + falls[rnd, 3:]).T / 2, 0.6)
        mixture = mixture * np.exp(law.sum(axis=0))
        mixture /= mixture.sum()
        np.testing.assert_allclose(np.delete(state.share, 2), mixture, rtol=2e-3)
    np.testing.assert_allclose(s.rates(state), np.append(mixture[[0, 0]] / 2, mixture[1:]), rtol=2e-3)


def test_a_moving_average_begins_with_equal_shares():
    """Catches: the average and the sum over rounds together, which the authors never use so."""
    s = schedule.aioli(rounds=2, trials=2, one_hot=1.0, eta=1.0, decay=0.25)
    state = s.init(schedule.BlockInfo(2, domain=[0, 1]))
    for index, losses in enumerate([[9.0, 9.0], [8.0, 9.0], [8.0, 9.0], [8.0, 9.0], [8.0, 9.0], [8.0, 6.0]]):
        state = s.begin(s.observe(state, jnp.arange(2), jnp.array(losses), index), index)
    # A = diag(1, 0), then diag(0, 1): the average is diag(0.25, 0.75).
    np.testing.assert_allclose(state.share, np.exp([0.25, 0.75]) / np.exp([0.25, 0.75]).sum(), rtol=1e-3)


def test_fewer_trials_than_domains():
    """Catches: a mixture from domains that were not tried; trials that begin with the first domain in each round."""
    s = schedule.aioli(rounds=3, trials=2, one_hot=1.0)
    state, losses = s.init(schedule.BlockInfo(4, domain=DOMAIN)), [9.0, 9.0, 9.0]
    tried = []
    for index in range(9):
        losses = [losses[0] - 0.1, losses[1], losses[2]]
        state = passed(s, state, index, losses)
        if index % 3 < 2:
            tried.append(int(jnp.argmax(state.share)))
        elif index == 2:
            np.testing.assert_allclose(np.delete(state.share, 2), 1 / 3, rtol=1e-3)
    assert tried == [0, 1, 3, 0, 1, 3]


def test_losses_that_are_not_known_and_one_domain():
    """Catches: NaN in a mixture; a fall from nothing; 0 / 0 where no loss moves; a division by K − 1 = 0."""
    s = schedule.aioli(rounds=2, trials=3)
    state = s.init(schedule.BlockInfo(4, domain=DOMAIN))
    for index, losses in enumerate([[jnp.nan] * 3, [5.0, jnp.nan, 5.0], [5.0] * 3, [5.0] * 3] * 2):
        state = passed(s, state, index, losses)
        assert np.isfinite(s.rates(state)).all() and np.isclose(state.share.sum(), 1, atol=1e-3)
    alone = s.init(schedule.BlockInfo(2, domain=[0, 0]))
    for index in range(8):
        alone = s.begin(s.observe(alone, jnp.arange(2), jnp.array([5.0, 5.0]) - index, index), index)
        np.testing.assert_allclose(s.rates(alone), 0.5)


def test_phases_and_errors():
    """Catches: a phase without a scoring pass; equal shares for the domain that is tried; phases that fill memory."""
    s = schedule.aioli(rounds=2, trials=2, trial_steps=3, round_steps=5)
    assert [p.name for p in s.phases] == ["trial.1.1", "trial.1.2", "round.1", "trial.2.1", "trial.2.2", "round.2"]
    assert [p.stop for p in s.phases] == [3, 6, 11, 14, 17, 22] and all(p.score for p in s.phases)
    assert not s.observe_train
    for options, error in [
        (dict(one_hot=0.5), "one_hot is 0.5, expected a share: more than 0.5"),
        (dict(rounds=10**6), "rounds is 1000000, expected at most 500000"),
        (dict(rounds=10, trials=10**5), "trials is 100000, expected at most 99999"),
        (dict(decay=1), "decay is 1, expected a share"),
    ]:
        with pytest.raises(ValueError, match=error):
            schedule.aioli(**options)
