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
