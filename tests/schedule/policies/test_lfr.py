"""Learn–Focus–Review, worked by hand, and its control."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

LENGTHS = dict(learn=4, focus=2, review=4, focus2=2)


def drawn(s, state):
    return np.flatnonzero(s.rates(state)).tolist()


def measure(s, state, losses, step):
    return s.observe(state, jnp.arange(len(losses)), jnp.array(losses, jnp.float32), step)


def test_a_whole_run_by_hand():
    """Catches: dropping the hardest; drop and drop2 exchanged; Review keeping the Focus; stale losses."""
    s = schedule.lfr(**LENGTHS, drop=0.3, drop2=0.7, reps=1)
    state = s.init(schedule.BlockInfo(10))
    assert drawn(s, s.begin(state, 0)) == list(range(10))

    # From the easiest: 7 (0.5), 2 (1.0), 5 (1.5) | 0 (2.0), ... Focus drops floor(0.3 · 10) = 3, keeps 7.
    state = measure(s, s.begin(state, 0), [2.0, 6.0, 1.0, 5.0, 9.0, 1.5, 4.0, 0.5, 7.0, 3.0], 4)
    state = s.begin(state, 1)
    assert drawn(s, state) == [0, 1, 3, 4, 6, 8, 9]

    state = s.begin(state, 2)
    assert drawn(s, state) == list(range(10))

    # Block 7 has become the hardest. Focus 2 drops floor(0.7 · 10) = 7, keeps the hardest 3: 7, 4, 8.
    state = measure(s, state, [1.0, 2.0, 0.5, 2.5, 8.0, 1.0, 3.0, 9.5, 6.0, 2.0], 10)
    state = s.begin(state, 3)
    assert drawn(s, state) == [4, 7, 8]


def test_excess_loss_within_domains_and_review_at_the_end():
    """Catches: the loss alone, by which noise (blocks 1 and 5) is kept; the column added; domains that compete, so that
    domain 1 loses two blocks; a reference that is not known taken for one of 0; Focus 2 in place of Review."""
    lengths = LENGTHS | dict(focus2=0)
    s = schedule.stratified(schedule.lfr(**lengths, drop=0.25, reps=1, minus="prior"))
    assert [(p.name, p.start, p.stop, p.score) for p in s.phases] == [
        ("learn", 0, 4, False),
        ("focus", 4, 6, True),
        ("review", 6, 10, False),
    ]
    prior = [1.0, 8.7, 2.0, 3.0, 1.0, 8.9, np.nan, 2.0]
    info = schedule.BlockInfo(8, domain=np.repeat([0, 1], 4), columns={"prior": prior})
    # The differences: 2, 0.3, 1, 1 in domain 0; 0.2, 0.1, not known, 0.5 in domain 1.
    state = measure(s, s.begin(s.init(info), 0), [3.0, 9.0, 3.0, 4.0, 1.2, 9.0, 0.05, 2.5], 4)
    state = s.begin(state, 1)
    assert drawn(s, state) == [0, 2, 3, 4, 6, 7]
    assert drawn(s, s.begin(state, 2)) == list(range(8))


@pytest.mark.parametrize("policy", [schedule.lfr, schedule.lfr_clusters, schedule.random_drop])
def test_cycles_without_focus_2(policy):
    """Catches: a phase of no steps; a control whose phases are others; drop2 in Review."""
    s = policy(**LENGTHS | dict(focus2=0), drop=0.5, drop2=0.7, reps=2)
    assert [(p.name, p.start) for p in s.phases] == [
        ("learn", 0),
        ("focus.1", 4),
        ("review.1", 6),
        ("focus.2", 10),
        ("review.2", 12),
    ]
    state = s.init(schedule.BlockInfo(10, cluster=np.arange(10) % 3))
    assert [len(drawn(s, s.begin(state, i))) for i in range(5)] == [10, 5, 10, 5, 10]
    with pytest.raises(ValueError, match="the length of phase 'focus2' is -1, expected at least 0"):
        policy(focus2=-1)


def test_another_implementation():
    """Catches: a share rounded up; ranks from the hardest; Focus 2 on the losses of Learn; a selection within Focus 2.

    The numbers are those of Quokka's Trainer.run with s1 = 50, s2 = 70 and 7 blocks: it drops int(3.5) and int(4.9) of
    the lowest perplexities in training, and repeats Focus 2 five times on one selection.
    """
    lengths = schedule.in_epochs(7, 1, focus2=5, reps=1)
    s = schedule.lfr(**lengths, scores="train")
    assert lengths["focus2"] == 15 and [phase.score for phase in s.phases] == [False] * 4
    state = measure(s, s.begin(s.init(schedule.BlockInfo(7)), 0), np.log([30, 20, 70, 10, 50, 60, 40]), 0)
    state = s.begin(state, 1)
    assert drawn(s, state) == [2, 4, 5, 6]
    state = measure(s, s.begin(state, 2), np.log([9, 8, 2, 7, 3, 1, 4]), 8)
    state = s.begin(state, 3)
    assert drawn(s, state) == [0, 1, 3]
    draws = schedule.plan(s.rates(state), 15, seed=0, phase=3)[:].reshape(5, 3)
    assert [sorted(epoch) for epoch in draws.tolist()] == [[0, 1, 3]] * 5


@pytest.mark.parametrize("scores", ["pass", "train"])
def test_unmeasured_blocks_are_kept(scores):
    """Catches: NaN counted as easiest."""
    s = schedule.lfr(**LENGTHS, drop=0.5, reps=1, scores=scores)
    state = s.init(schedule.BlockInfo(4))
    state = s.observe(state, jnp.array([0, 1, 2]), jnp.array([9.0, 5.0, jnp.inf]), 0)
    # Blocks 2 (infinite: not measured) and 3 (never met) come before 0 (9 nats) and 1.
    assert drawn(s, s.begin(state, 1)) == [2, 3]


@pytest.mark.parametrize("value", [3.0, float("nan")])
@pytest.mark.parametrize("scores", ["pass", "detrended"])
def test_all_equal_or_all_nan_still_keep_exactly_k(value, scores):
    """Catches: keeping every tie; a trend through no point at all."""
    s = schedule.lfr(**LENGTHS, drop=0.5, drop2=0.7, reps=1, scores=scores)
    state = measure(s, s.init(schedule.BlockInfo(101)), [value] * 101, 3)
    assert len(drawn(s, s.begin(state, 1))) == 101 - 50
    assert len(drawn(s, s.begin(state, 3))) == 101 - 70


def test_drop_nothing():
    """Catches: k = N going astray."""
    s = schedule.lfr(**LENGTHS, drop=0.0, reps=1)
    state = measure(s, s.init(schedule.BlockInfo(3)), [1.0, 2.0, 3.0], 0)
    assert drawn(s, s.begin(state, 1)) == [0, 1, 2]


def falling(n, steps):
    """Blocks met one after another as the loss falls from 10 to 2, alternately 0.5 nats above and below."""
    step_N = np.arange(n) * steps // n
    trend_N = 2 + 8 * np.exp(-3 * step_N / steps)
    hard_N = np.arange(n) % 2 == 0
    return step_N, trend_N + np.where(hard_N, 0.5, -0.5), hard_N


def test_detrended_finds_the_hard_blocks_where_train_finds_the_early_ones():
    """Catches: no trend removed; the trend added; step and loss exchanged; bins over the index."""
    n = 4096
    step_N, loss_N, hard_N = falling(n, 1000)
    order = np.random.default_rng(0).permutation(n)  # block order[j] is the j-th met
    found = {}
    for scores in ("train", "detrended"):
        s = schedule.lfr(**LENGTHS, drop=0.5, reps=1, scores=scores)
        state = s.init(schedule.BlockInfo(n))
        state = state._replace(
            measured=state.measured._replace(
                loss=jnp.zeros(n).at[order].set(loss_N), step=jnp.zeros(n, jnp.int32).at[order].set(step_N)
            )
        )
        found[scores] = np.asarray(s.rates(s.begin(state, 1)))[order]
    early_N = np.arange(n) < n // 2
    assert found["train"][early_N].mean() > 0.9
    assert found["detrended"][hard_N].mean() > 0.98


def test_detrend_by_hand():
    """Catches: geometric bin centres; extrapolation; an empty bin drawn as zero; the last step outside."""
    # Steps 0..19 in four bins of width 5; bin 1 (5..9) is empty.
    known = schedule.init_measured(8)
    for i, (step, loss) in enumerate([(0, 9.0), (4, 7.0), (10, 5.0), (14, 3.0), (19, 2.0), (19, 4.0)]):
        known = schedule.observe(known, jnp.array([i]), jnp.array([loss]), step)
    # Points (2, 8), (12, 4), (19, 3). Trend at 0: 8. At 4: 8 − 2·4/10 = 7.2. At 10: 8 − 8·4/10 = 4.8.
    # At 14: 4 − 2·1/7. At 19: 3.
    want = [1.0, -0.2, 0.2, 3 - (4 - 2 / 7), -1.0, 1.0, np.nan, np.nan]
    np.testing.assert_allclose(schedule.detrend(known, num_bins=4), want, atol=1e-5)


def test_detrend_shifts_with_the_steps():
    """Catches: bins that start at step 0 instead of the first measurement."""
    step_N, loss_N, _ = falling(256, 100)
    known = schedule.Measured(jnp.asarray(loss_N, jnp.float32), jnp.asarray(step_N, jnp.int32), jnp.int32(0))
    later = known._replace(step=known.step + 5000)
    np.testing.assert_allclose(schedule.detrend(later, 8), schedule.detrend(known, 8), atol=1e-5)


def test_random_drop_keeps_as_many_as_lfr_but_others_each_time():
    """Catches: the key without the phase or the seed; the shares exchanged; losses looked at."""
    s = schedule.random_drop(**LENGTHS, drop=0.5, drop2=0.7, reps=2, seed=0)
    state = s.init(schedule.BlockInfo(1000))
    sets = [drawn(s, s.begin(state, i)) for i in range(len(s.phases))]
    assert [len(x) for x in sets] == [1000, 500, 1000, 300, 500, 1000, 300]
    assert len(set(sets[1]) & set(sets[4])) < 300  # 250 by chance
    assert sets[1] == drawn(s, s.begin(measure(s, state, np.arange(1000.0), 0), 1))
    other = schedule.random_drop(**LENGTHS, drop=0.5, drop2=0.7, reps=2, seed=1)
    assert len(set(sets[1]) & set(drawn(other, other.begin(state, 1)))) < 300
    assert abs(np.mean(sets[1]) - 499.5) < 4 * 289 / 500**0.5  # no region is favoured


def test_each_phase_draws_what_it_says_at_every_step():
    """Catches: a plan of the phase before or after; a batch too many or too few at an edge."""
    s = schedule.lfr(**LENGTHS, drop=0.5, drop2=0.75, reps=2)
    n, batch = 8, 4
    state = s.init(schedule.BlockInfo(n))
    losses = np.arange(n, dtype=np.float32)
    seen = []  # the blocks of each step
    for i, phase in enumerate(s.phases):
        if phase.score:
            state = measure(s, state, losses, phase.start)
        state = s.begin(state, i)
        draws = schedule.plan(s.rates(state), (phase.stop - phase.start) * batch, seed=0, phase=i)
        seen += draws[:].reshape(-1, batch).tolist()
    assert len(seen) == s.phases[-1].stop == 20
    for phase in s.phases:
        steps = seen[phase.start : phase.stop]
        blocks = {block for step in steps for block in step}
        allowed = {"learn": range(8), "focus": range(4, 8), "review": range(8), "focus2": range(6, 8)}
        assert blocks == set(allowed[phase.name.split(".")[0]]), phase
        if phase.name == "learn":  # 16 draws of 8 blocks: two passes, each complete
            assert sorted(sum(steps[:2], [])) == sorted(sum(steps[2:], [])) == list(range(8))
