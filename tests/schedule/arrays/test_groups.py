"""Means over groups: exact, in any order, and of as many blocks as there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfr_jax import schedule
from lfr_jax.schedule import Groups, group_means
from lfr_jax.schedule.arrays.groups import divided, fill, groups_of, means_of

SIZE, GROUPS = 12, 4
numbers = st.one_of(st.floats(-20, 20, width=32), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e-3]))


def groups(of, num_groups=GROUPS) -> Groups:
    return Groups(jnp.asarray(of, jnp.int32), jnp.asarray(np.bincount(of, minlength=num_groups), jnp.int32))


@settings(deadline=None, max_examples=100)
@given(st.lists(numbers, min_size=SIZE, max_size=SIZE), st.lists(st.integers(0, 2), min_size=SIZE, max_size=SIZE))
def test_equals_the_mean(x, of):
    """Catches: NaN or infinity counted; the mean of all for a group's; 0 for a group with no number; a
    resolution far from 2**-24 of the largest; a negative number's sign lost."""
    means, counts = group_means(jnp.array(x, jnp.float32), groups(of))
    for g in range(GROUPS):
        mine = np.array([v for v, o in zip(x, of) if o == g and np.isfinite(v)], np.float32)
        assert counts[g] == len(mine)
        if len(mine):
            assert abs(float(means[g]) - mine.astype(float).mean()) <= 2**-24 * 32
        else:
            assert np.isnan(means[g])


@pytest.mark.parametrize("scale", [1e-42, 1e-36, 1e-6, 1.0, 1e30, 3e38])
def test_equal_numbers_have_that_mean(scale):
    """Catches: a division that rounds; a unit that underflows or overflows; a fixed resolution."""
    x = jnp.full(1000, np.float32(0.7 * scale))
    means, _ = group_means(jnp.where(jnp.arange(1000) < 300, -x, x), groups(np.arange(1000) // 300))
    unit = max(2.0 ** (np.frexp(0.7 * scale)[1] - 24), 2.0**-124)  # of the smallest there is but a multiple of this
    np.testing.assert_allclose(means, [-x[0], x[0], x[0], x[0]], rtol=0, atol=unit / 2 if scale < 1e-30 else 0)


def test_any_order_gives_the_same_bits():
    """Catches: a sum of floats."""
    rng = np.random.default_rng(0)
    x, of = rng.gamma(2, 1, 20_000).astype(np.float32), rng.integers(0, GROUPS, 20_000)
    want = group_means(jnp.asarray(x), groups(of))
    for _ in range(3):
        order = rng.permutation(len(x))
        jax.tree.map(np.testing.assert_array_equal, group_means(jnp.asarray(x[order]), groups(of[order])), want)
    np.testing.assert_allclose(want[0], [x[of == g].mean(dtype=float) for g in range(GROUPS)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [1, 5, 12, 25])
def test_sums_of_many_blocks(width):
    """Catches: a carry dropped; sums or remainders that overflow 32 bits, with as many blocks as digits of
    that width allow for."""
    largest = 2 ** (32 - width) - 1 if width > 1 else 2**31 - 1
    counts = [1, 2, 3, largest // 2, largest - 1, largest]
    for value in (1, 2**24, 2**25 - 1, 123_456_789 % 2**25):
        digits = [(value >> place) % 2**width for place in range(0, 25, width)]
        sums_DxG = np.array([[digit * n for n in counts] for digit in digits])
        assert sums_DxG.max() < 2**32
        quotients = divided(jnp.asarray(sums_DxG, jnp.uint32), jnp.array(counts, jnp.uint32), width)
        assert quotients.tolist() == [value] * len(counts)


def test_quotients_are_rounded_to_the_nearest():
    """Catches: rounding down, which would lower every mean by half a unit."""
    quotients = divided(jnp.array([[7, 1, 0], [1, 0, 0]], jnp.uint32), jnp.array([10, 2, 3], jnp.uint32), 5)
    assert quotients.tolist() == [4, 1, 0]  # 39/10, 1/2, 0


def test_digits_are_narrow_enough():
    """Catches: sums of N blocks that overflow; all the digits in memory at once."""
    n = 1 << 20  # 12 bits each: 2**20 numbers of 24 equal bits, and of one more
    x = jnp.full(n, jnp.float32(1 - 2**-24))
    means, counts = means_of(x, jnp.zeros(n, jnp.int32), 1)
    assert means[0] == x[0] and counts[0] == n
    compiled = means_of.lower(x, jnp.zeros(n, jnp.int32), 1).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20 * n


def test_fill_leaves_numbers_as_they_are():
    """Catches: the mean for every block; 0 where a group has no number."""
    x = jnp.array([1.0, jnp.nan, 4.0, jnp.nan, 2.0])
    got = fill(x, groups([0, 0, 1, 2, 0]))
    np.testing.assert_array_equal(got, [1.0, 1.5, 4.0, np.nan, 2.0])


def test_groups_of_refuses():
    """Catches: dropping a check; sizes of a trillion groups, for two blocks."""
    with pytest.raises(ValueError, match="mine needs BlockInfo.domain"):
        groups_of(schedule.BlockInfo(2), "domain", "mine")
    for bad in (np.array([0.0, 1.0]), np.array([0, -1])):
        with pytest.raises(ValueError, match="expected integers from 0"):
            groups_of(schedule.BlockInfo(2, domain=bad), "domain", "mine")
    for bad in (np.array([0, 2**20]), np.array([0, 2**40])):
        with pytest.raises(ValueError, match="BlockInfo.domain has a group .*, and 2 blocks: number the groups from 0"):
            groups_of(schedule.BlockInfo(2, domain=bad), "domain", "mine")
    with pytest.raises(ValueError, match="is traced"):
        jax.jit(lambda d: groups_of(schedule.BlockInfo(2, domain=d), "domain", "mine").of)(jnp.array([0, 1]))
