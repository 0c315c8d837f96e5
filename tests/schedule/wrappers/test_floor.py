"""A share of the draws for all blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax import schedule
from lfr_jax.schedule.arrays.groups import relative


def with_rates(rate_N):
    """A schedule of these rates."""
    return schedule.uniform()._replace(rates=lambda state: jnp.asarray(rate_N, jnp.float32))


def test_the_share_goes_to_all_blocks_alike():
    """Catches: the share of the largest rate in place of the mean; r + share without (1 − share); a sum not divided."""
    s = schedule.floor(with_rates([6, 0, 2, 0]), 0.25)  # mean 2
    rate_N = s.rates(None)
    np.testing.assert_allclose(rate_N, [0.75 * 3 + 0.25, 0.25, 0.75 + 0.25, 0.25])
    counts_N = np.bincount(schedule.plan(rate_N, 400, seed=0, phase=0)[:], minlength=4)
    assert counts_N.tolist() == [250, 25, 100, 25]


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 1.0])
def test_equal_rates_stay_equal(share):
    """Catches: rounding that turns shuffled epochs into draws at different rates."""
    rate_N = np.asarray(schedule.floor(with_rates(np.full(1001, 0.3)), share).rates(None))
    assert (rate_N == rate_N[0]).all()
    drawn_N = np.arange(1001) % 3 == 0
    assert len(np.unique(schedule.floor(with_rates(drawn_N), share).rates(None))) == (1 if share == 1 else 2)


def test_no_mesh_changes_a_bit():
    """Catches: a sum of floats, whose order is the mesh's."""
    rate_N = np.random.default_rng(0).gamma(0.3, 1e-3, 4096).astype(np.float32)
    alone = np.asarray(jax.jit(relative)(rate_N))
    for devices in (2, 8):
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
        spread = jax.device_put(rate_N, NamedSharding(mesh, P("data")))
        np.testing.assert_array_equal(jax.jit(relative)(spread), alone)
    np.testing.assert_allclose(alone.mean(dtype=np.float64), 1, rtol=1e-6)


def test_extremes_stay_finite():
    """Catches: a sum of rates that overflows; a mean that rounds to 0 where one block has nearly all draws."""
    for rate_N in ([3e38, 3e38, 0], [2e-38, 2e-38, 0], np.eye(1, 1 << 20)[0]):
        rate_N = np.asarray(rate_N, np.float32)
        np.testing.assert_allclose(relative(rate_N), (rate_N > 0) * (len(rate_N) / (rate_N > 0).sum()), rtol=1e-6)


def test_the_share_must_be_one():
    """Catches: a percentage taken for a share."""
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"share is {share}, expected a share: 0 to 1"):
            schedule.floor(schedule.uniform(), share)
