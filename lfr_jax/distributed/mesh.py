"""The device mesh ('data', 'fsdp', 'tensor') of every computation, and the rows of a batch that a process holds.

All axes are Explicit: an array's type carries its sharding, and a wrong sharding raises an error at trace time
instead of causing silent communication. One device is the mesh (1, 1, 1), not a special case.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
# Under other values, training would end at its first step, or at its first checkpoint.
FLAGS = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_use_shardy_partitioner": True,
}
BATCH = P(("data", "fsdp"))  # rows of a batch: split over both axes that hold different data


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of data × fsdp × tensor devices. One axis may be -1: all devices that remain.

    A mesh that is smaller than `devices` (default: all) uses the first ones. Only a single process may do that.

    Raises:
      ValueError: two axes are -1, a size is below 1, the sizes do not divide the number of devices,
        or they need more devices than there are; or as `find_devices` and `arranged` raise.

    >>> dict(make_mesh(1, 1, 1).shape)
    {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    devices = find_devices() if devices is None else list(devices)
    sizes = dict(zip(AXES, (data, fsdp, tensor)))
    asked = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 for size in sizes.values() if size != -1):
        raise ValueError(f"{asked}: every size must be positive, and at most one may be -1 (all that remain)")
    needed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        if len(devices) % needed:
            raise ValueError(
                f"{asked}: {len(devices)} devices cannot be divided by {needed}; "
                "change the other sizes so that their product divides the number of devices"
            )
        sizes[free[0]] = len(devices) // needed
        needed = len(devices)
    if needed > len(devices):
        raise ValueError(
            f"{asked}: the mesh needs {needed} devices and {len(devices)} were found; lower a size, "
            "or set one to -1 to take all that remain"
        )
    if needed < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"{asked}: the mesh has {needed} devices, but {len(devices)} in {jax.process_count()} processes "
            "must all take part; set one size to -1"
        )
    return Mesh(arranged(tuple(sizes.values()), devices[:needed]), AXES, axis_types=(AxisType.Explicit,) * 3)


def arranged(sizes: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices as an array of these sizes, in which neighbours along an axis are near in the network.

    Several slices of TPUs are joined by the network of the data center alone. They lie along 'data', or else along
    'fsdp', which send less often than 'tensor'.

    Raises:
      ValueError: the number of slices divides the size of neither.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    divisible = [axis for axis in (0, 1) if sizes[axis] % slices == 0]
    if not divisible:
        raise ValueError(
            f"mesh.data={sizes[0]}, mesh.fsdp={sizes[1]}: the devices are {slices} slices, expected one of the two to "
            f"be a multiple of {slices}, as 'tensor' does not cross slices; raise it, and lower mesh.tensor"
        )
    across = tuple(slices if axis == divisible[0] else 1 for axis in range(3))
    within = tuple(size // outer for size, outer in zip(sizes, across))
    return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)


def find_devices() -> list[jax.Device]:
    """All devices of all processes.

    Raises:
      ValueError: there is none of the kind that JAX_PLATFORMS names; or a flag of JAX is set otherwise than in `FLAGS`.
    """
    for name, expected in FLAGS.items():
        if (found := getattr(jax.config, name, expected)) != expected:
            raise ValueError(f"found {name.upper()}={found}, and all that is computed here needs {expected}; unset it")
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that a GPU is there
        reason = str(error).partition("\n")[0] or "no such device"
        raise ValueError(
            f"JAX finds no device (JAX_PLATFORMS is {jax.config.jax_platforms or 'not set'}): {reason}; name what this "
            "machine has, such as JAX_PLATFORMS=cpu, or unset it"
        ) from None


class Shards(NamedTuple):
    """The rows of a batch that a process holds: of `of` equal shards, those in `mine`."""

    mine: tuple[int, ...]
    of: int

    def rows(self, size: int) -> np.ndarray:
        """Indices of the rows that this process holds in a batch of `size` rows, in rising order.

        >>> Shards(mine=(0, 3), of=4).rows(8)
        array([0, 1, 6, 7])
        """
        length = size // self.of
        return (length * np.array(self.mine)[:, None] + np.arange(length)).ravel()


@functools.lru_cache  # asked for at every step
def shards_of(mesh: Mesh) -> Shards:
    """The shards of this process. Processes in one 'tensor' group hold the same rows."""
    of = mesh.shape["data"] * mesh.shape["fsdp"]
    slices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((of,)).values()
    return Shards(tuple(sorted({run.indices(of)[0] for (run,) in slices})), of)
