"""Runs of unequal length, laid one after the other in one array."""

import numpy as np


def ranges(start_R: np.ndarray, length_R: np.ndarray) -> np.ndarray:
    """int64[sum of the lengths]: the positions in each run, run after run.

    >>> ranges(np.array([10, 0, 5]), np.array([2, 0, 3]))
    array([10, 11,  5,  6,  7])
    """
    length_R = np.asarray(length_R, np.int64)
    stop_R = np.cumsum(length_R)
    return np.repeat(start_R - (stop_R - length_R), length_R) + np.arange(length_R.sum())
