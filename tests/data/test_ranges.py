"""Runs of unequal length."""

import numpy as np

from lfr_jax.data import blocks


def test_no_runs():
    """Catches: an empty array of floats, which indexes nothing."""
    found = blocks.ranges(np.zeros(0, np.int64), np.zeros(0, np.uint8))
    assert found.dtype == np.int64 and found.shape == (0,)
