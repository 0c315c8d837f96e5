"""Runs of unequal length."""

import doctest

import numpy as np

from lfr_jax import ragged


def test_doctests():
    """Catches: positions of one run counted on from another's."""
    assert doctest.testmod(ragged).attempted and doctest.testmod(ragged).failed == 0


def test_no_runs():
    """Catches: an empty array of floats, which indexes nothing."""
    found = ragged.ranges(np.zeros(0, np.int64), np.zeros(0, np.uint8))
    assert found.dtype == np.int64 and found.shape == (0,)
