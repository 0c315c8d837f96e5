"""Falling losses by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

NOT = float("nan")


def run(s, *losses, **info):
    """The blocks drawn in the phases after the first, each measured as one begins."""
    n = len(losses[0])
    state, chosen = s.begin(s.init(schedule.BlockInfo(n, **info)), 0), []
    for index, of_blocks in enumerate(losses, 1):
        state = s.observe(state, jnp.arange(n), jnp.array(of_blocks), s.phases[index].start)
        state = s.begin(state, index)
        chosen.append(np.flatnonzero(s.rates(state)).tolist())
    return chosen


def test_by_hand():
    """Catches: the loss in place of its fall; a rise that counts; a share rounded down; falls since the warm-up's
    begin; a watch after which the falls are those of the watch before."""
    s = schedule.progress(keep=0.34, reps=2)  # 2 of 4 blocks
    first = run(s, [9.0, 5.0, 4.0, 6.0], [9.0, 4.5, 3.0, 6.5], [8.0, 3.0, 3.0, 6.5], [7.9, 2.9, 2.0, 4.0])
    assert first == [[0, 1, 2, 3], [1, 2], [0, 1, 2, 3], [2, 3]]  # falls 0, 0.5, 1, −0.5; then 0.1, 0.1, 1, 2.5


def test_blocks_that_were_not_measured_on_both_sides():
    """Catches: a block that the watch did not draw, whose fall would be 0; NaN that is never chosen."""
    s = schedule.progress(keep=0.5, scores="train")
    assert run(s, [5.0, 5.0, NOT, 5.0], [4.9, NOT, 4.0, 3.0])[1] == [1, 2]  # falls 0.1, ?, ?, 2
    s = schedule.progress(keep=0.5, scores="train", unmeasured="domain")  # means 0.1 of domain 0, 2 of domain 1
    assert run(s, [5.0, 5.0, NOT, 5.0], [4.9, NOT, 4.0, 3.0], domain=[0, 0, 1, 1])[1] == [2, 3]


def test_relative_to_a_domain():
    """Catches: the domain's mean loss subtracted in place of its mean fall; a mean over all blocks."""
    before, after = [9.0, 9.0, 5.0, 5.0], [7.0, 6.0, 4.9, 4.5]  # falls 2, 3 in domain 0; 0.1, 0.5 in domain 1
    assert run(schedule.progress(), before, after)[1] == [0, 1]
    assert run(schedule.progress(relative_to="domain"), before, after, domain=[0, 0, 1, 1])[1] == [1, 3]


def test_detrended_losses_of_training():
    """Catches: last losses taken as they are, although some blocks had more steps between them than others."""
    found = {}
    for scores in ("train", "detrended"):
        s, n = schedule.progress(keep=0.25, scores=scores), 256
        state, rng = s.begin(s.init(schedule.BlockInfo(n)), 0), np.random.default_rng(0)
        learned_N = np.arange(n) % 4 == 0  # these fall by 0.5 more than the others
        order_2N = np.concatenate([rng.permutation(n), rng.permutation(n)])  # in the two phases
        for time in range(16):
            ids = order_2N[32 * time :][:32]
            losses = 9 - 0.2 * time - 0.5 * (time >= 8) * learned_N[ids]
            state = s.observe(state, jnp.asarray(ids), jnp.asarray(losses, jnp.float32), time)
            state = s.begin(state, (time + 1) // 8) if time % 8 == 7 else state
        found[scores] = np.mean(learned_N[np.flatnonzero(s.rates(state))])
    assert found["train"] < 0.7 and found["detrended"] == 1


def test_one_pass_and_losses_of_the_warm_up():
    """Catches: a pass before the watch all the same; losses of training not asked for; those of the watch in place of
    the pass, or of the warm-up; a trend that is left in, by which those that came early have fallen furthest."""
    n = 256
    s = schedule.progress(warmup=n, watch=8, focus=8, keep=0.25, scores_before="detrended")
    assert [phase.score for phase in s.phases] == [False, False, True] and s.observe_train
    state, learned_N = s.begin(s.init(schedule.BlockInfo(n)), 0), np.arange(n) % 4 == 0
    observe = jax.jit(s.observe)
    for step in range(n):  # of one block each; the loss falls from 9 to 5
        state = observe(state, jnp.array([step]), jnp.array([9 - step / 64]), step)
    state = s.begin(state, 1)
    state = observe(state, jnp.arange(n), jnp.arange(n, dtype=jnp.float32), n + 4)  # of training
    after_N = jnp.array(np.where(learned_N, 3.0, 5.0), jnp.float32)
    state = s.begin(observe(state, jnp.arange(n), after_N, n + 8), 2)
    assert np.flatnonzero(s.rates(state)).tolist() == np.flatnonzero(learned_N).tolist()
    assert not any(phase.score for phase in schedule.progress(scores="detrended", scores_before="train").phases)
    with pytest.raises(ValueError, match="scores_before is 'both', expected one of 'pass', 'train', "):
        schedule.progress(scores_before="both")


def test_phases_and_errors():
    """Catches: a scoring pass before the warm-up, or none before 'focus'; the groups that are needed not named."""
    s = schedule.progress(warmup=8, watch=4, focus=6, reps=2)
    assert [tuple(p) for p in s.phases] == [
        ("warmup", 0, 8, False),
        ("watch.1", 8, 12, True),
        ("focus.1", 12, 18, True),
        ("watch.2", 18, 22, True),
        ("focus.2", 22, 28, True),
    ]
    assert not s.observe_train and schedule.progress(scores="detrended").observe_train
    assert not any(p.score for p in schedule.progress(scores="detrended").phases)
    with pytest.raises(ValueError, match="progress needs BlockInfo.cluster"):
        schedule.progress(relative_to="cluster").init(schedule.BlockInfo(4))
    with pytest.raises(ValueError, match="relative_to is 'length', expected one of '', 'domain', 'cluster'"):
        schedule.progress(relative_to="length")
