"""What differs by phase, looked up by a number that is known or traced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.schedule import by_phase


@pytest.mark.parametrize(
    "table", [(2, 5, 3), (True, False, True), (0.5, 0.25, 1.0), np.uint32([[1, 2], [3, 4], [5, 6]])]
)
def test_entries_are_the_same_known_or_traced(table):
    """Catches: an entry of the phase before or after; a table that loses its type."""
    for index in range(3):
        known = schedule.of_phase(table, index)
        traced = jax.jit(lambda index: schedule.of_phase(table, index))(index)
        assert np.asarray(traced).tolist() == np.asarray(known).tolist()
        assert traced.dtype == jnp.asarray(known).dtype


@pytest.mark.parametrize("per_phase", [("a", "b"), (abs, None), schedule.lfr(reps=1).phases, ((1,), (1, 2))])
def test_entries_that_no_table_holds(per_phase):
    """Catches: an error that no trainer takes for "needs a Python integer"; text that becomes an array."""
    assert schedule.of_phase(per_phase, 1) is per_phase[1]
    with pytest.raises(TypeError, match="the entries of the phases are .*, expected numbers, as phase_index is traced"):
        jax.eval_shape(lambda index: schedule.of_phase(per_phase, index), 0)


def test_each_different_function_is_compiled_once():
    """Catches: a branch for each phase, which ten thousand phases make a huge program; a table in the wrong order."""
    calls = []

    def times(factor, x):
        calls.append(factor)
        return factor * x

    double, triple = (functools.partial(times, factor) for factor in (2, 3))
    functions = (double, triple, triple, double) * 2500
    begin = jax.jit(lambda index, x: schedule.phase_switch(functions, index, x))
    assert [int(begin(index, 5)) for index in (0, 1, 2, 3, 9998, 9999)] == [10, 15, 15, 10, 15, 10]
    assert sorted(calls) == [2, 3]
    assert schedule.phase_switch(functions, 9998, 5) == 15
    with pytest.raises(IndexError, match="phase_index is 10000, expected 0 to 9999"):
        schedule.phase_switch(functions, 10000, 5)


def test_too_many_functions_for_one_program():
    """Catches: a program of a thousand branches, built for minutes and kept."""
    functions = [lambda i=i: i for i in range(by_phase.MOST_FUNCTIONS + 1)]
    assert schedule.phase_switch(functions, 7) == 7
    with pytest.raises(TypeError, match="65 different functions, expected at most 64, as phase_index is traced"):
        jax.eval_shape(lambda index: schedule.phase_switch(functions, index), 0)


def test_choices_look_up_numbers_by_the_phase():
    """Catches: the number of the phase kept in the state, or not given to a choice."""
    shares = (0.25, 0.5, 0.75)

    def choose(loss_N, info):
        return jnp.where(loss_N > 3, 1.0, schedule.of_phase(shares, info["phase"]))

    s = schedule.scored(schedule.lfr(reps=1).phases[:3], (choose,) * 3, dtype=jnp.float32)
    state = s.observe(s.init(schedule.BlockInfo(2)), jnp.arange(2), jnp.array([2.0, 4.0]), 0)
    for begin in (s.begin, jax.jit(s.begin)):
        assert [begin(state, index).rate.tolist() for index in range(3)] == [[share, 1.0] for share in shares]


def test_ten_thousand_phases_are_a_small_program():
    """Catches: a branch or a constant of every block for each phase."""
    s = schedule.seta(rounds=10_000, first=1, later=1, last=1)
    state = s.init(schedule.BlockInfo(1000))
    text = jax.jit(s.begin).lower(state, 0).as_text()
    assert len(text) < 300_000  # the tables are part of it
