"""Policies whose per-block arrays are spread over devices: the bits of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax import schedule

N = 64
POLICIES = {
    "ranked": schedule.ranked(rounds=3, keep=0.3, temperature=1.0, tilt=0.5),
    "progress": schedule.progress(relative_to="domain", scores="detrended", unmeasured="domain"),
    "doremi": schedule.doremi(rounds=3),
    "aioli": schedule.aioli(rounds=1, trials=3),
}


def life(s, put, whole):
    """The rates of all phases, each block but a few measured in each."""
    rng, rates = np.random.default_rng(0), []
    columns = dict(quality=rng.normal(size=N), ref_loss=rng.gamma(4, 1, N).astype(np.float32))
    state = put(s.init(schedule.BlockInfo(N, domain=rng.integers(0, 3, N), columns=columns)))
    observe, begin = jax.jit(s.observe), jax.jit(s.begin)
    for index in range(len(s.phases)):
        ids = np.sort(rng.choice(N, 48, replace=False)).astype(np.int32)
        losses = rng.gamma(4, 1, 48).astype(np.float32)
        state = begin(observe(state, *whole((ids, losses)), index), jnp.int32(index))
        rates.append(np.asarray(s.rates(state)))
    return state, rates


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_bits_on_a_mesh(name):
    """Catches: a sum of floats over blocks; a gather along a sharded axis; a state that ends up whole on a device."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)

    def place(x):
        return jax.device_put(x, NamedSharding(mesh, P(("a", "b")) if np.shape(x) == (N,) else P()))

    expected = life(POLICIES[name], lambda x: x, lambda x: x)
    with jax.set_mesh(mesh):
        found = life(POLICIES[name], lambda x: jax.tree.map(place, x), lambda x: jax.tree.map(place, x))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    for x in jax.tree.leaves(found[0]):
        assert np.shape(x) != (N,) or x.sharding.is_equivalent_to(NamedSharding(mesh, P(("a", "b"))), 1)
