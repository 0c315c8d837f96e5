"""Keyed permutations: that they are ones, and that all are equally likely."""

import collections
import itertools

import numpy as np
import pytest

from lfr_jax.schedule import numpy_key
from lfr_jax.schedule.draws.permutation import ROUNDS, permute, sides_for


@pytest.mark.parametrize("size", [*range(1, 9), 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 65_535, 65_536, 65_537])
def test_is_a_permutation(size):
    """Catches: a value left outside (< for >=); walking only once."""
    for number in range(2):
        keys = numpy_key(b"test", 0, 0, number)
        image = permute(np.arange(size, dtype=np.uint32), size, keys, sides_for(size))
        np.testing.assert_array_equal(np.sort(image), np.arange(size))


@pytest.mark.parametrize("size", [2**31, 3_000_000_000, 2**32 - 5, 2**32 - 1])
def test_largest_sizes(size):
    """Catches: arithmetic that overflows 32 bits; a grid of more than 2**32 places."""
    x = np.concatenate([np.arange(1000), size - 1 - np.arange(1000)]).astype(np.uint32)
    image = permute(x, size, numpy_key(b"test", 0, 0, 0), sides_for(size))
    assert len(np.unique(image)) == 2000 and image.max() < size
    assert abs(image.mean() / size - 0.5) < 4 * 0.29 / 2000**0.5  # wrapped products would crowd somewhere


def test_grid_is_just_large_enough():
    """Catches: the first width in place of the best; a side so short that its digit says little."""
    sizes = [*range(1, 3000), 10**5 + 3, 10**6, 10**8 - 1, 5 * 10**7, 2**32 - 1, 2**32 - 2**15]
    for size in sizes:
        a, b = sides_for(size)
        assert max(size, 64) <= a * b <= 2**32 and 7 < b and a < 4 * b and b < 4 * a
    # Elements outside must walk; of a batch of 1,024, hardly any does.
    assert all(a * b - size < 1e-4 * size for size in sizes if size >= 10**5 for a, b in [sides_for(size)])


@pytest.mark.parametrize("size", [3, 4, 5])
def test_every_permutation_is_equally_likely(size):
    """Catches: fewer rounds, or a grid below 64 places for small sizes."""
    per_permutation = 150
    all_of_them = list(itertools.permutations(range(size)))
    draws = per_permutation * len(all_of_them)
    keys = np.random.default_rng(0).integers(0, 2**32, (ROUNDS, draws), dtype=np.uint32)
    images = [permute(np.full(draws, x, np.uint32), size, keys, sides_for(size)).tolist() for x in range(size)]
    seen = collections.Counter(zip(*images))
    chi2 = sum((seen[p] - per_permutation) ** 2 / per_permutation for p in all_of_them)
    freedom = len(all_of_them) - 1
    assert abs(chi2 - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("size", [40, 100])
def test_pairs_are_equally_likely(size):
    """Catches: four rounds; a digit to which nothing is added (40 is not a square)."""
    draws = 30 * size * size
    keys = np.random.default_rng(0).integers(0, 2**32, (ROUNDS, draws), dtype=np.uint32)
    for a, b in [(0, 1), (0, size // 2), (size - 2, size - 1)]:
        first, second = (permute(np.full(draws, x, np.uint32), size, keys, sides_for(size)) for x in (a, b))
        table = np.bincount(first.astype(int) * size + second, minlength=size * size).reshape(size, size)
        assert np.trace(table) == 0
        off_diagonal = table[~np.eye(size, dtype=bool)]
        mean, freedom = draws / off_diagonal.size, off_diagonal.size - 1
        chi2 = ((off_diagonal - mean) ** 2 / mean).sum()
        assert abs(chi2 - freedom) < 4 * (2 * freedom) ** 0.5


def test_elements_of_several_permutations():
    """Catches: walking elements that keep another's key or size."""
    sizes, numbers = np.repeat([64, 9, 5], 5), np.tile(np.arange(5), 3)
    x = np.tile(np.arange(5, dtype=np.uint32), 3)
    keys = np.stack([numpy_key(b"test", 0, 0, int(n)) for n in numbers], axis=-1)
    together = permute(x, sizes, keys, sides_for(64))
    apart = [permute(x[i : i + 1], int(sizes[i]), keys[:, i], sides_for(64))[0] for i in range(15)]
    assert together.tolist() == apart
