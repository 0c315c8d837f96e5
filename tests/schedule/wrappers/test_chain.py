"""One schedule after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

SHORT = dict(learn=4, focus=2, review=3, focus2=1, reps=1)


def test_phases_follow_one_another_and_keep_their_numbers():
    """Catches: a stage that starts at 0 again; the number in the chain handed to a stage; scoring passes lost."""
    s = schedule.chain(schedule.uniform(10), schedule.lfr(**SHORT, drop=0.5, drop2=0.75))
    assert [(p.name, p.start, p.stop, p.score) for p in s.phases] == [
        ("uniform", 0, 10, False),
        ("learn", 10, 14, False),
        ("focus", 14, 16, True),
        ("review", 16, 19, False),
        ("focus2", 19, 20, True),
    ]
    state = s.observe(s.init(schedule.BlockInfo(8)), jnp.arange(8), jnp.arange(8.0), 14)
    assert [int(s.rates(s.begin(state, i)).sum()) for i in range(5)] == [8, 8, 4, 8, 2]
    assert [p.stop for p in schedule.fit(s, 40).phases] == [20, 28, 32, 38, 40]


def test_names_get_a_number_only_where_two_are_alike():
    """Catches: prefixes always, never, or for the second stage alone."""
    one = schedule.uniform(1)
    assert [p.name for p in schedule.chain(one, schedule.mixture()).phases] == ["uniform", "stage.1"]
    assert [p.name for p in schedule.chain(one, schedule.mixture(), one).phases] == [
        "1.uniform",
        "2.stage.1",
        "3.uniform",
    ]


def test_a_later_stage_knows_what_was_learned_before():
    """Catches: `observe` for the current stage alone; `begin` that resets the others."""
    s = schedule.chain(schedule.uniform(5), schedule.lfr(**SHORT, drop=0.5, scores="train"))
    assert s.observe_train
    state = s.begin(s.init(schedule.BlockInfo(4)), 0)
    state = s.observe(state, jnp.arange(4), jnp.array([3.0, 1.0, 2.0, 4.0]), 3)
    state = s.begin(state, 1)
    assert s.rates(s.begin(state, 2)).tolist() == [1, 0, 0, 1]


def test_what_a_stage_asks_for_holds_for_the_chain():
    """Catches: only the first stage asked for training losses or weights; weights of another stage than the current."""
    weighing = schedule.uniform(3)._replace(loss_weights=lambda state, ids_B, losses_B: 2 * losses_B)
    s = schedule.chain(schedule.uniform(5), weighing)
    state, ids, losses = s.init(schedule.BlockInfo(4)), jnp.arange(2), jnp.array([3.0, 5.0])
    assert s.loss_weights(s.begin(state, 0), ids, losses).tolist() == [1, 1]
    assert s.loss_weights(s.begin(state, 1), ids, losses).tolist() == [6, 10]
    plain = schedule.chain(schedule.uniform(), schedule.lfr(**SHORT))
    assert plain.loss_weights is None and not plain.observe_train


def test_a_chain_of_chains():
    """Catches: phase numbers counted from the wrong stage where a stage has several phases."""
    lfr = schedule.lfr(**SHORT, drop=0.5)
    s = schedule.chain(schedule.chain(lfr, schedule.uniform(2)), lfr)
    state = s.observe(s.init(schedule.BlockInfo(2)), jnp.arange(2), jnp.array([1.0, 2.0]), 0)
    drawn = [np.flatnonzero(s.rates(s.begin(state, i))).tolist() for i in range(len(s.phases))]
    assert drawn == [[0, 1], [1], [0, 1], [1], [0, 1], [0, 1], [1], [0, 1], [1]]
    with pytest.raises(ValueError, match="chain.. has no stage, expected at least one schedule"):
        schedule.chain()


def test_rates_outside_of_a_jit_are_compiled_once():
    """Catches: a switch over new functions at each call, which is compiled at each edge of a phase, and kept."""
    s = schedule.chain(schedule.uniform(5), schedule.linupper())
    state = s.init(schedule.BlockInfo(4))
    programs = jax.devices()[0].client.live_executables
    counts = []
    for _ in range(3):
        assert s.rates(state).tolist() == [1] * 4
        s.loss_weights(state, jnp.arange(4), jnp.ones(4))
        counts.append(len(programs()))
    assert counts[0] == counts[1] == counts[2]
