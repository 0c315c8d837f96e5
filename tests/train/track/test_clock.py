"""The clock: each second in one stage, and which of them are work."""

import functools
import time
import types

import jax
import pytest

from lfr_jax.train.compiled import compiled_off_the_clock
from lfr_jax.train.track import clock
from lfr_jax.train.track.clock import Clock


@pytest.fixture
def hand(monkeypatch):
    """Time that passes where a test moves it, and nowhere else: a busy machine keeps no upper limit."""
    hand = types.SimpleNamespace(now=5.0, perf_counter=lambda: hand.now)
    monkeypatch.setattr(clock, "time", hand)
    return hand


def test_a_second_belongs_to_the_innermost_stage(hand):
    """Catches: a second counted in two stages, or in none; a stage that does not go on after an inner one; seconds of
    work that have evaluations in them."""
    clock = Clock()
    hand.now += 1
    with clock.stage("training"):
        hand.now += 2
        with clock.stage("evaluation"):
            hand.now += 4
            with clock.stage("compilation"):
                hand.now += 8
            hand.now += 16
        hand.now += 32
        inside = clock.seconds
        with pytest.raises(KeyError), clock.stage("saving"):
            hand.now += 64
            raise KeyError
    hand.now += 128
    spent = dict(start=129.0, training=34.0, evaluation=20.0, compilation=8.0, saving=64.0)
    assert {name: seconds for name, seconds in clock.stages.items() if seconds} == spent
    assert (inside, clock.seconds) == (34, 98) and sum(clock.stages.values()) == hand.now - 5


def test_waiting_for_items_is_told_from_what_is_done_with_them(hand):
    """Catches: the time of the loop's body counted as waiting; the end of the items left out."""

    def slow():
        for item in "ab":
            hand.now += 1
            yield item
        hand.now += 4

    clock = Clock()
    with clock.stage("training"):
        for _ in clock.each("pipeline", slow()):
            hand.now += 10
    assert (clock.stages["pipeline"], clock.stages["training"]) == (6, 20)


def test_what_was_counted_before_is_added(hand):
    """Catches: a resumed run that forgets what it has cost, or adds it to another stage."""
    clock = Clock()
    clock.credit({"training": 100.0, "probes": 7.0})
    assert clock.seconds == 100.0 and clock.stages["probes"] == 7.0


def test_compiled_pays_for_compiling_once_a_shape_and_off_the_clock(hand):
    """Catches: compiling at every call, or on the clock; the program of one shape called with another."""
    jitted, lowered = jax.jit(lambda state, x: x + 1), []

    def slow(*args):
        lowered.append(args)
        hand.now += 1
        return jitted.lower(*args)

    clock = Clock()
    call = functools.partial(
        compiled_off_the_clock(types.SimpleNamespace(lower=slow), lambda: clock.stage("compilation")), 0.0
    )
    assert [int(call(1)), int(call(2))] == [2, 3]
    assert len(lowered) == 1
    for _ in range(2):
        assert call(jax.numpy.ones(3)).tolist() == [2, 2, 2] and int(call(3)) == 4
    assert len(lowered) == 2 and clock.seconds == 0 and clock.stages["compilation"] == 2


def test_steps_under_way_count_although_another_program_is_compiled():
    """Catches: a pause that begins while the device still works on what was dispatched before."""

    def slow(x):
        return jax.pure_callback(lambda x: (time.sleep(0.2), x)[1], x, x)

    clock = Clock()
    call = compiled_off_the_clock(jax.jit(lambda x, y: (slow(x), y)), lambda: clock.stage("compilation"))
    x, _ = call(jax.numpy.ones(()), jax.numpy.ones(2))
    with clock.stage("training"):
        call(x, jax.numpy.ones(3))
    assert clock.seconds >= 0.2
