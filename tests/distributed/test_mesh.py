"""Meshes: sizes, the one that takes what remains, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from lfr_jax.distributed.mesh import arranged, make_mesh


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


@dataclasses.dataclass(frozen=True)
class Chip:
    """As much of a TPU as a mesh asks for: a 4 × 4 torus, in slices."""

    slice_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"


def chips(slices: int) -> list[Chip]:
    return [Chip(index, (x, y, 0)) for index in range(slices) for y in range(4) for x in range(4)]


@pytest.mark.parametrize(
    "sizes, axis", [((2, 16, 1), 0), ((32, 1, 1), 0), ((1, 32, 1), 1), ((4, 4, 2), 0), ((1, 8, 4), 1)]
)
def test_slices_lie_along_data_or_else_fsdp(sizes, axis):
    """Catches: jax.make_mesh, which refuses several slices; a 'tensor' group, or a replica, that two slices share."""
    array = arranged(sizes, chips(slices=2))
    assert array.shape == sizes and len(set(array.flat)) == 32
    halves = np.split(array, 2, axis=axis)
    assert [{chip.slice_index for chip in half.flat} for half in halves] == [{0}, {1}]


def test_an_axis_of_the_network_may_be_split():
    """Catches: 8 × 2 refused on a 4 × 4 torus, as neither is a product of whole axes."""
    assert arranged((2, 8, 1), chips(slices=1)).shape == (2, 8, 1)


def test_tensor_does_not_cross_slices():
    """Catches: all collectives of every layer through the network of the data center, without a word."""
    with pytest.raises(ValueError, match="mesh.data=1, mesh.fsdp=1: the devices are 2 slices, .* a multiple of 2"):
        arranged((1, 1, 32), chips(slices=2))


@pytest.mark.parametrize("error", [RuntimeError("Unable to initialize backend 'cuda': \nmore"), AssertionError()])
def test_a_missing_device_is_one_line(monkeypatch, error):
    """Catches: what JAX raises where JAX_PLATFORMS names a device that is not there."""

    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(ValueError, match=r"JAX finds no device \(JAX_PLATFORMS is cpu\): [^\n]*; name what") as raised:
        make_mesh()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "flag, found",
    [
        (jax.enable_x64(True), "JAX_ENABLE_X64=True"),
        (jax.disable_jit(), "JAX_DISABLE_JIT=True"),
        (jax.numpy_dtype_promotion("strict"), "JAX_NUMPY_DTYPE_PROMOTION=strict"),
    ],
)
def test_flags_that_training_cannot_honour_are_refused(flag, found):
    """Catches: a KeyError at the first checkpoint, and other errors later on."""
    with flag, pytest.raises(ValueError, match=f"found {found}, .*; unset it"):
        make_mesh()
