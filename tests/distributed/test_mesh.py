"""Meshes: sizes, the one that takes what remains, and what is refused."""

import jax
import pytest

from lfr_jax.distributed.mesh import make_mesh


@pytest.mark.parametrize(
    "sizes, shape",
    [
        ((), (8, 1, 1)),
        ((1, 1, 1), (1, 1, 1)),
        ((2, 2, 2), (2, 2, 2)),
        ((1, -1, 2), (1, 4, 2)),
        ((-1, 8), (1, 8, 1)),
        ((2, 1, -1), (2, 1, 4)),
    ],
)
def test_sizes(sizes, shape):
    """Catches: the remaining axis not divided by both others; axes in another order or not Explicit."""
    mesh = make_mesh(*sizes)
    assert dict(mesh.shape) == dict(zip(("data", "fsdp", "tensor"), shape))
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Explicit}


def test_takes_the_devices_given():
    """Catches: `devices` ignored."""
    assert list(make_mesh(devices=jax.devices()[4:6]).devices.flat) == jax.devices()[4:6]


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((4, 2, 2), "needs 16 devices and 8 were found; lower a size"),
        ((-1, 3, 1), "8 devices cannot be divided by 3"),
        ((-1, 16, 1), "8 devices cannot be divided by 16"),
        ((-1, -1, 1), "at most one may be -1"),
        ((1, 0, 1), "mesh.fsdp=0.*must be positive"),
        ((-2, 1, 1), "mesh.data=-2.*must be positive"),
    ],
)
def test_refuses(sizes, message):
    """Catches: a size of 0 or -2 taken; a mesh larger than the machine; a remainder dropped."""
    with pytest.raises(ValueError, match=message):
        make_mesh(*sizes)
