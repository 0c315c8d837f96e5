"""The clock counts work only."""

import time

import jax

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


def test_compiled_pays_for_compiling_once_a_shape_and_off_the_clock():
    """Catches: compiling at every call, or on the clock; the program of one shape called with another."""
    traces = []

    def slow_to_trace(x):
        traces.append(time.sleep(0.5))
        return x + 1

    clock = Clock()
    call = clock.compiled(jax.jit(slow_to_trace))
    assert [int(call(1)), int(call(2))] == [2, 3]
    assert len(traces) == 1
    for _ in range(2):
        assert call(jax.numpy.ones(3)).tolist() == [2, 2, 2] and int(call(3)) == 4
    assert len(traces) == 2 and clock.seconds < 0.5


def test_steps_under_way_count_although_another_program_is_compiled():
    """Catches: a pause that begins while the device still works on what was dispatched before."""

    def slow(x):
        return jax.pure_callback(lambda x: (time.sleep(0.2), x)[1], x, x)

    clock = Clock()
    call = clock.compiled(jax.jit(lambda x, y: (slow(x), y)))
    x, _ = call(jax.numpy.ones(()), jax.numpy.ones(2))
    call(x, jax.numpy.ones(3))
    assert clock.seconds >= 0.2
