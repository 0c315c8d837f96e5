"""Freed memory stays with the process: where glibc is, and nowhere else."""

import ctypes
import sys

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
