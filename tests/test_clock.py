"""The clock counts work only."""

import time

import jax
import pytest

from lfr_jax.clock import Clock


def test_pauses_do_not_count_even_nested():
    """Catches: counting a nested pause twice (time would run backwards), or going on after an inner pause."""
    clock = Clock()
    before = clock.seconds
    with clock.paused():
        with clock.paused():
            time.sleep(0.05)
        time.sleep(0.05)
        inside = clock.seconds
    time.sleep(0.02)
    assert before <= inside < 0.05
    assert inside + 0.02 <= clock.seconds < inside + 0.05


def test_credit_adds_what_was_worked_before():
    """Catches: a resumed run that forgets its earlier seconds."""
    clock = Clock()
    clock.credit(100.0)
    assert 100.0 <= clock.seconds < 101.0


def test_compiled_pays_for_compiling_once_and_off_the_clock():
    """Catches: compiling at every call, or on the clock."""
    traces = []

    def slow_to_trace(x):
        traces.append(time.sleep(0.1))
        return x + 1

    clock = Clock()
    call = clock.compiled(jax.jit(slow_to_trace))
    assert [int(call(1)), int(call(2))] == [2, 3]
    assert len(traces) == 1 and clock.seconds < 0.1
    with pytest.raises(TypeError):  # other shapes are another program
        call(jax.numpy.ones(3))
