"""The skeleton of policies that go by measured losses."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

PHASES = tuple(schedule.Phase(name, i, i + 1, score=i > 0) for i, name in enumerate(["all", "some", "again"]))


def as_is(loss_N, info):
    return jnp.nan_to_num(loss_N, nan=99.0)


def build(choices=(None, as_is, as_is), dtype=jnp.float32, **options):
    return schedule.scored(PHASES, choices, dtype=dtype, **options)


def measure(s, state, losses, step):
    """`losses`: by block."""
    return s.observe(state, jnp.array(list(losses)), jnp.array(list(losses.values()), jnp.float32), step)


def rates(s, state):
    return s.rates(state).tolist()


def test_losses_of_the_newest_pass_alone():
    """Catches: stale losses; losses forgotten where a phase has no pass of its own; a phase of None that chooses."""
    s = build()
    state = measure(s, s.init(schedule.BlockInfo(3)), {0: 1.0, 1: 2.0, 2: 3.0}, 5)
    assert rates(s, s.begin(state, 0)) == [1.0, 1.0, 1.0]
    state = s.begin(state, 1)
    assert rates(s, state) == [1.0, 2.0, 3.0]
    assert rates(s, s.begin(state, 2)) == [1.0, 2.0, 3.0]  # no pass since: the same one again
    state = measure(s, measure(s, state, {0: 7.0}, 8), {2: 8.0}, 8)
    state = s.begin(state, 2)
    assert rates(s, state) == [7.0, 99.0, 8.0]
    assert rates(s, s.begin(state, 0)) == [1.0, 1.0, 1.0]


def test_losses_of_training_are_asked_for_and_kept():
    """Catches: `observe_train` for passes alone, or left out where losses are mixed; old losses forgotten."""
    assert not build(scores="pass").observe_train
    assert all(build(scores=scores).observe_train for scores in ("train", "detrended", "mixed"))
    s = build(scores="train")
    state = measure(s, measure(s, s.init(schedule.BlockInfo(3)), {0: 1.0, 1: 2.0}, 5), {1: 4.0}, 6)
    assert rates(s, s.begin(state, 1)) == [1.0, 4.0, 99.0]


@pytest.mark.parametrize("by", ["domain", "cluster"])
def test_unmeasured_blocks_take_the_mean_of_their_group(by):
    """Catches: the groups of the other array; NaN left where a mean was asked for."""
    s = build(unmeasured=by)
    other = {"domain": "cluster", "cluster": "domain"}[by]
    info = schedule.BlockInfo(5, **{by: np.array([0, 1, 0, 0, 1]), other: np.zeros(5, int)})
    state = measure(s, s.init(info), {0: 2.0, 1: 7.0, 2: 4.0}, 5)
    assert rates(s, s.begin(state, 1)) == [2.0, 7.0, 4.0, 3.0, 7.0]
    with pytest.raises(ValueError, match=f"this policy needs BlockInfo.{by}"):
        s.init(schedule.BlockInfo(5))


def test_an_array_is_subtracted_before_the_means_are_taken():
    """Catches: means of losses, less a block's own reference; adding; a reference that `init` forgot."""
    s = build(unmeasured="domain", minus="ref_loss")
    info = schedule.BlockInfo(4, domain=np.zeros(4, int), ref_loss=np.array([1.0, 2.0, 5.0, np.nan]))
    state = measure(s, s.init(info), {0: 4.0, 1: 3.0, 3: 9.0}, 5)
    # The differences are 3 and 1; of block 2 the loss, of block 3 the reference is not known.
    assert rates(s, s.begin(state, 1)) == [3.0, 1.0, 2.0, 2.0]


def test_choices_get_what_they_need():
    """Catches: arrays that were not asked for kept, at 4 bytes a block; integers where losses are; groups as arrays."""
    seen = {}

    def look(loss_N, info):
        seen.update(info)
        return jnp.ones(3)

    s = build((None, look, look), needs=("weak_loss", "domain"))
    info = schedule.BlockInfo(3, domain=np.array([2, 0, 2]), weak_loss=np.array([1, 2, 3]), ref_loss=np.ones(3))
    s.begin(s.init(info), 1)
    assert set(seen) == {"weak_loss", "domain", "phase"} and seen["phase"] == 1
    assert seen["weak_loss"].dtype == jnp.float32
    assert seen["domain"].of.tolist() == [2, 0, 2] and seen["domain"].size.tolist() == [1, 0, 2]


@pytest.mark.parametrize("dtype", [bool, jnp.float32])
def test_rates_keep_their_type(dtype):
    """Catches: a choice's own dtype in the state, which would be compiled and checkpointed as another one."""
    s = build((None, lambda loss_N, info: jnp.array([0, 2, 1]), None), dtype)
    state = s.init(schedule.BlockInfo(3))
    for index in range(3):
        state = s.begin(state, index)
        assert state.rate.dtype == dtype and s.rates(state).dtype == jnp.float32
    assert rates(s, s.begin(state, 1)) == ([0.0, 1.0, 1.0] if dtype is bool else [0.0, 2.0, 1.0])


def test_mistakes():
    """Catches: an unknown word taken for the default; groups that losses are subtracted from; a phase counted from the
    end."""
    with pytest.raises(ValueError, match="scores is 'losses', expected one of 'pass', 'train', 'detrended', 'mixed'"):
        build(scores="losses")
    with pytest.raises(ValueError, match="unmeasured is 'easiest', expected one of 'hardest', 'domain', 'cluster'"):
        build(unmeasured="easiest")
    with pytest.raises(ValueError, match="mine needs BlockInfo.ref_loss"):
        build(minus="ref_loss", policy="mine").init(schedule.BlockInfo(3))
    with pytest.raises(ValueError, match="minus is 'domain', expected the name of a column"):
        build(minus="domain")
    s = build()
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"phase_index is {index}, expected 0 to 2"):
            s.begin(s.init(schedule.BlockInfo(3)), index)
