"""Freed memory stays with the process: where glibc is, and nowhere else."""

import ctypes
import sys

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
