"""Scoring passes: each block once, and the schedule's state after them."""

import jax
import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.train import score


def test_the_scorer_tells_mistakes_apart(scorer):
    """The other tests need blocks of unequal loss and count, and a last batch that is not full."""
    nll_N, count_N = scorer.directly(scorer.train, np.arange(scorer.train.num_blocks))
    assert len(set(count_N)) > 3 and np.std(nll_N / count_N) > 0.1 and scorer.train.num_blocks % 16


def test_every_block_once_in_order_then_padding(scorer):
    """Catches: blocks lost, repeated or out of order at a batch's edge; padding that has an id or counts."""
    n, done = scorer.train.num_blocks, []
    yielded = scorer.losses(scorer.train, 16, advance=done.append)
    ids = np.concatenate([batch["ids"] for batch, _ in yielded])
    assert ids.tolist() == [*range(n), *[-1] * (-n % 16)]
    nll_N, count_N = (np.concatenate(parts) for parts in zip(*(sums for _, sums in yielded)))
    assert not np.any(count_N[n:]) and not np.any(nll_N[n:])
    expected_nll_N, expected_count_N = scorer.directly(scorer.train, np.arange(n))
    np.testing.assert_array_equal(count_N[:n], expected_count_N)
    np.testing.assert_allclose(nll_N[:n], expected_nll_N, rtol=1e-5)
    assert done == [16] * (n // 16) + [n % 16]


def test_chosen_blocks_alone(scorer):
    """Catches: ids taken for positions; all blocks scored although some were asked for."""
    chosen = np.array([7, 3, 20, 4, 11])
    (first, sums), (second, _), (last, _) = scorer.losses(scorer.train, 2, ids=chosen)
    assert [*first["ids"], *second["ids"], *last["ids"]] == [7, 3, 20, 4, 11, -1]
    np.testing.assert_array_equal(first["tokens"], scorer.train.tokens(np.array([7, 3])))
    np.testing.assert_allclose(sums[0], scorer.directly(scorer.train, chosen[:2])[0], rtol=1e-5)


def test_scoring_waits_for_whoever_reads(scorer):
    """Catches: all batches dispatched at once, which would fill the device's memory."""
    calls = []
    step = lambda *args: (calls.append(1), scorer.step(*args))[1]  # noqa: E731
    with jax.set_mesh(scorer.mesh):
        pass_over = score.losses(step, scorer.params, scorer.train, 16, scorer.mesh)
        assert len(calls) == 0
        for number, _ in enumerate(pass_over, start=1):
            assert len(calls) == number


def test_observe_all_is_one_observation_of_all(scorer):
    """Catches: summed losses in place of means; padding that lands on the last block; a lost batch; a wrong step."""
    n = scorer.train.num_blocks
    sched = schedule.lfr(reps=1)
    nll_N, count_N = scorer.directly(scorer.train, np.arange(n))
    losses_N = (nll_N / count_N).astype(np.float32)
    expected = sched.observe(sched.init(schedule.BlockInfo(n)), np.arange(n), losses_N, 7)
    with jax.set_mesh(scorer.mesh):
        measured = score.losses(scorer.step, scorer.params, scorer.train, 16, scorer.mesh)
        state = score.observe_all(score.make_observe_step(sched), sched.init(schedule.BlockInfo(n)), 7, measured)
    np.testing.assert_allclose(state.measured.loss, expected.measured.loss, rtol=1e-5)
    np.testing.assert_array_equal(state.measured.step, np.full(n, 7))
    assert int(state.measured.num_invalid) == 0
    np.testing.assert_array_equal(
        sched.rates(sched.begin(state, 1)), sched.rates(sched.begin(expected, 1))
    )  # the same choice


def test_a_policy_without_scores_is_left_as_it_was(scorer):
    """Catches: a state that `observe_all` takes apart."""
    n, sched = scorer.train.num_blocks, schedule.uniform(10)
    with jax.set_mesh(scorer.mesh):
        measured = score.losses(scorer.step, scorer.params, scorer.train, 16, scorer.mesh)
        state = score.observe_all(score.make_observe_step(sched), sched.init(schedule.BlockInfo(n)), 7, measured)
    assert np.asarray(state.drawn).all() and state.drawn.shape == (n,)


def test_a_block_of_nan_loss_is_counted(scorer):
    """Catches: a diverged model whose losses are taken for measurements."""
    n, sched = scorer.train.num_blocks, schedule.lfr(reps=1)
    params = jax.tree.map(lambda x: np.nan * x, scorer.params)
    with jax.set_mesh(scorer.mesh):
        measured = score.losses(scorer.step, params, scorer.train, 16, scorer.mesh)
        state = score.observe_all(score.make_observe_step(sched), sched.init(schedule.BlockInfo(n)), 7, measured)
    assert int(state.measured.num_invalid) == n and np.isnan(state.measured.loss).all()


GROUPS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4], [400, 90, 7, 3]))


@pytest.mark.parametrize("count", [1, 4, 50, 125, 499, 500])
def test_a_sample_has_its_share_of_each_group(count):
    """Catches: blocks twice; a share off by one; a plain sample, which leaves small groups out; ids out of order."""
    chosen = score.sample_blocks(GROUPS, count, seed=3, phase=1)
    assert len(chosen) == count and np.all(np.diff(chosen) > 0) and chosen[0] >= 0 and chosen[-1] < 500
    for group in range(5):
        share = count * np.mean(GROUPS == group)
        assert np.floor(share) <= np.sum(GROUPS[chosen] == group) <= np.ceil(share)


def test_a_sample_follows_from_seed_and_phase():
    """Catches: the same blocks in each phase; a sample that differs between a run and the same run resumed."""
    draws = [score.sample_blocks(GROUPS, 50, seed, phase).tolist() for seed in range(4) for phase in range(4)]
    assert len({tuple(ids) for ids in draws}) == 16
    assert score.sample_blocks(GROUPS, 50, 1, 2).tolist() == draws[6]


def test_no_block_is_likelier_than_another():
    """Expected: 100 ± 9.5 of 1,000 samples. Catches: samples that all begin at one place, and leave blocks out."""
    counts = sum(np.bincount(score.sample_blocks(GROUPS, 50, 0, phase), minlength=500) for phase in range(1000))
    assert counts.min() > 60 and counts.max() < 140
    small = counts[GROUPS == 4]  # three blocks, 0.3 of which are in a sample
    assert 60 < small.mean() < 140


@pytest.mark.parametrize("phase", [0, 1, 7])
def test_a_sample_is_no_regular_one_of_the_order_of_training(phase):
    """Catches: the sample taken from the permutation that the phase's own batches come from."""
    order_N = schedule.plan(np.ones(500), 500, 0, phase)[:]
    places = np.flatnonzero(np.isin(order_N, score.sample_blocks(np.zeros(500, int), 50, 0, phase)))
    assert len(set(np.diff(places))) > 5
