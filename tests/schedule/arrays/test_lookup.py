"""Numbers of some blocks, out of sharded arrays too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax import schedule

IDS = np.array([0, 63, 8, 7, -1, 64, 31, 8, -64, 2**31 - 1], np.int32)
EXPECTED = [0, 63, 8, 7, 0, 0, 31, 8, 0, 0]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_on_any_mesh(kind):
    """Catches: −1 read as the last block; an id of another shard that wraps around into this one; a sum of all parts
    that counts one twice."""
    assert schedule.take_blocks(jnp.arange(64.0), IDS).tolist() == EXPECTED
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        x_N = jax.device_put(jnp.arange(64.0), NamedSharding(mesh, P("data")))
        assert jax.jit(schedule.take_blocks)(x_N, IDS.astype(np.uint32)).tolist() == EXPECTED
