"""Scoring passes: each block once, and the schedule's state after them."""

import jax
import numpy as np

from lfr_jax import schedule, score


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
    np.testing.assert_array_equal(first["tokens"], scorer.train.rows(np.array([7, 3])))
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
        state = score.observe_all(sched, sched.init(schedule.BlockInfo(n)), 7, measured)
    np.testing.assert_allclose(state.measured.loss, expected.measured.loss, rtol=1e-5)
    np.testing.assert_array_equal(state.measured.step, np.full(n, 7))
    assert int(state.measured.num_invalid) == 0
    np.testing.assert_array_equal(state.drawn, expected.drawn)
    np.testing.assert_array_equal(
        sched.rates(sched.begin(state, 1)), sched.rates(sched.begin(expected, 1))
    )  # the same choice


def test_a_policy_without_scores_is_left_as_it_was(scorer):
    """Catches: a state that `observe_all` takes apart."""
    n, sched = scorer.train.num_blocks, schedule.uniform(10)
    with jax.set_mesh(scorer.mesh):
        measured = score.losses(scorer.step, scorer.params, scorer.train, 16, scorer.mesh)
        state = score.observe_all(sched, sched.init(schedule.BlockInfo(n)), 7, measured)
    assert np.asarray(state.drawn).all() and state.drawn.shape == (n,)


def test_a_block_of_nan_loss_is_counted(scorer):
    """Catches: a diverged model whose losses are taken for measurements."""
    n, sched = scorer.train.num_blocks, schedule.lfr(reps=1)
    params = jax.tree.map(lambda x: np.nan * x, scorer.params)
    with jax.set_mesh(scorer.mesh):
        measured = score.losses(scorer.step, params, scorer.train, 16, scorer.mesh)
        state = score.observe_all(sched, sched.init(schedule.BlockInfo(n)), 7, measured)
    assert int(state.measured.num_invalid) == n and np.isnan(state.measured.loss).all()
