"""The clock counts work only."""

import time
import types

import jax
import pytest

from lfr_jax.train.steps import compiled_off_the_clock
from lfr_jax.train.track import clock
from lfr_jax.train.track.clock import Clock


@pytest.fixture
def hand(monkeypatch):
    """Time that passes where a test moves it, and nowhere else: a busy machine keeps no upper limit."""
    hand = types.SimpleNamespace(now=5.0, perf_counter=lambda: hand.now)
    monkeypatch.setattr(clock, "time", hand)
    return hand


def test_pauses_do_not_count_even_nested(hand):
    """Catches: counting a nested pause twice (time would run backwards), or going on after an inner pause."""
    clock = Clock()
    hand.now += 1
    with clock.paused():
        with clock.paused():
            hand.now += 2
        hand.now += 4
        inside = clock.seconds
    hand.now += 8
    assert (inside, clock.seconds) == (1, 9)


def test_credit_adds_what_was_worked_before(hand):
    """Catches: a resumed run that forgets its earlier seconds."""
    clock = Clock()
    clock.credit(100.0)
    assert clock.seconds == 100.0


def test_compiled_pays_for_compiling_once_a_shape_and_off_the_clock(hand):
    """Catches: compiling at every call, or on the clock; the program of one shape called with another."""
    jitted, lowered = jax.jit(lambda x: x + 1), []

    def slow(x):
        lowered.append(x)
        hand.now += 1
        return jitted.lower(x)

    clock = Clock()
    call = compiled_off_the_clock(types.SimpleNamespace(lower=slow), clock.paused)
    assert [int(call(1)), int(call(2))] == [2, 3]
    assert len(lowered) == 1
    for _ in range(2):
        assert call(jax.numpy.ones(3)).tolist() == [2, 2, 2] and int(call(3)) == 4
    assert len(lowered) == 2 and clock.seconds == 0


def test_steps_under_way_count_although_another_program_is_compiled():
    """Catches: a pause that begins while the device still works on what was dispatched before."""

    def slow(x):
        return jax.pure_callback(lambda x: (time.sleep(0.2), x)[1], x, x)

    clock = Clock()
    call = compiled_off_the_clock(jax.jit(lambda x, y: (slow(x), y)), clock.paused)
    x, _ = call(jax.numpy.ones(()), jax.numpy.ones(2))
    call(x, jax.numpy.ones(3))
    assert clock.seconds >= 0.2
