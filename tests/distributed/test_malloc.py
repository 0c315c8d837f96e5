"""Freed memory stays with the process: where glibc is, and nowhere else."""

import ctypes
import sys

import jax
import numpy as np
import pytest

from lfr_jax.distributed import malloc


def test_it_asks_glibc_and_nobody_else(monkeypatch):
    """Catches: an error on macOS, or where the C library has no mallopt (musl); a limit that is given a wrong name."""
    asked = []

    class Glibc:
        def mallopt(self, what, value):
            asked.append((what, value))

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Glibc())
    malloc.keep_freed_memory()
    assert asked == []
    monkeypatch.setattr(sys, "platform", "linux")
    malloc.keep_freed_memory()
    assert asked == [(-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 28)]  # the numbers in glibc's malloc.h
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    malloc.keep_freed_memory()


def test_what_the_compiler_freed_goes_back(monkeypatch):
    """Catches: memory of a compilation that the process keeps; it given back twice, or after each small program."""
    given_back = []

    class Glibc:
        def mallopt(self, what, value):
            pass

        def malloc_trim(self, pad):
            given_back.append(pad)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Glibc())
    malloc.keep_freed_memory()
    malloc.keep_freed_memory()
    for event, seconds in ((malloc.COMPILED, 0.01), ("/jax/core/compile/jaxpr_trace_duration", 5.0)):
        jax.monitoring.record_event_duration_secs(event, seconds)
    assert given_back == []
    jax.monitoring.record_event_duration_secs(malloc.COMPILED, 5.0)
    assert given_back == [0]


def test_jax_tells_of_a_compilation():
    """Catches: another name of the event."""
    events = []

    def listener(event, seconds, **_):
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    jax.jit(lambda x: x + 1).lower(1.0).compile()
    jax.monitoring.unregister_event_duration_listener(listener)
    assert malloc.COMPILED in events


def test_allocated_is_what_is_not_freed():
    """Catches: mapped blocks left out; a field of the struct read under another's name."""
    before = malloc.allocated()
    if before == 0:
        pytest.skip("the C library has no mallinfo2")
    small, large = [bytes(1000) for _ in range(5000)], np.ones(2**26, np.uint8)
    during = malloc.allocated()
    assert during - before > 2**26 + 4_000_000
    del small, large
    assert malloc.allocated() < before + 2_000_000
