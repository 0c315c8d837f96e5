"""TPUs that are not here: what is published of each generation, and devices that the compiler can compile for.

The compiler is in the package libtpu; no TPU is needed. Sizes of slices: https://cloud.google.com/tpu/docs/v4, v5e, v5p
and v6e.
"""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax

from lfr_jax.config import nearest

INSTALL = "pip install 'lfr_jax[aot]'"
GIB = 2**30


class Generation(NamedTuple):
    """One kind of TPU chip. Rates are of one chip, in bytes or FLOPs a second."""

    device_kind: str  # as JAX names it; `train.flops.PEAK_FLOPS` has the peak
    hbm_gib: float  # what the compiler lets a program have; a little less than is built in
    hbm_rate: float
    link_rate: float  # of one link to a neighbour, in one direction
    network_rate: float  # out of the chip's slice: its share of the host's network cards; 0: not published
    torus: int  # an axis whose length is a multiple of this is a ring, else a line; see `Topology.rings`
    slices: dict[int, str]  # number in the accelerator's name -> shape
    options: dict[str, str] = {}  # for the compiler's description
    source: str = ""


FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
CUBES = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4", 256: "4x4x8", 512: "4x8x8", 1024: "8x8x8"}
MEGACORE = {"chip_config_name": "megacore"}  # both cores of a chip are one device, as on the machine

# HBM in GiB is what the compiler itself says when a program is too large. Links: the published rate of a chip, which
# counts both directions, over twice its number of links; v4: Jouppi et al. 2023 ("TPU v4"), table 4.
GENERATIONS = {
    "v4": Generation("TPU v4", 30.75, 1200e9, 50e9, 0, 4, CUBES, MEGACORE, "https://cloud.google.com/tpu/docs/v4"),
    "v5e": Generation(
        "TPU v5 lite", 15.75, 819e9, 50e9, 3.125e9, 16, FLAT, source="https://cloud.google.com/tpu/docs/v5e"
    ),
    "v5p": Generation("TPU v5", 95.74, 2765e9, 100e9, 6.25e9, 4, CUBES, source="https://cloud.google.com/tpu/docs/v5p"),
    "v6e": Generation(
        "TPU v6 lite", 31.25, 1638e9, 100e9, 12.5e9, 16, FLAT, source="https://cloud.google.com/tpu/docs/v6e"
    ),
}
ACCELERATORS = {"v4": "v4", "v5litepod": "v5e", "v5p": "v5p", "v6e": "v6e"}  # what stands before the number


class Topology(NamedTuple):
    """One or several slices of TPUs."""

    name: str  # as it was asked for
    generation: Generation
    kind: str  # a key of GENERATIONS
    shape: tuple[int, ...]  # chips along each axis of a slice
    slices: int = 1

    @property
    def num_chips(self) -> int:
        """All chips of all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def rings(self) -> tuple[bool, ...]:
        """For each axis of three, whether its ends are joined. Switches join those of whole cubes: all axes or none."""
        joined = [size % self.generation.torus == 0 for size in self.shape]
        if len(joined) == 3:
            return (all(joined),) * 3
        return (*joined, False)

    @property
    def title(self) -> str:
        """Its name for people, with the number of slices if there are several."""
        return f"{self.slices} slices of {self.name}" if self.slices > 1 else self.name

    def devices(self) -> Sequence[jax.Device]:
        """Devices that a program can be compiled for, and nothing else.

        From here on this process leaves the machine's own accelerators alone, and keeps no compiled programs: JAX can
        not read back one that is for other machines.

        Raises:
          ValueError: libtpu is not installed, or cannot describe this topology.
        """
        if importlib.util.find_spec("libtpu") is None:
            raise ValueError(f"to compile for TPUs, libtpu is needed, and it is not installed; run: {INSTALL}")
        from jax.experimental import topologies

        # libtpu would look for a TPU, or ask a cloud's machine about one, and lets only one process of a machine in.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_compilation_cache", False)
        several = {"num_slices": self.slices} if self.slices > 1 else {}
        try:
            described = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{self.kind}:{'x'.join(map(str, self.shape))}",
                wrap=self.rings,
                **self.generation.options,
                **several,
            )
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(f"libtpu has no topology {self.title}: {str(error).partition(chr(10))[0]}") from None
        return described.devices

    def link_rate(self, coords: Sequence[Sequence[int]]) -> float:
        """Bytes a second that each chip of a group can receive from the others of its slice, at best.

        Along an axis of the network that the group extends over, a chip has two links if the axis is a ring and the
        group is all of it. At the end of a line it has one, and all others wait for it.
        """
        links = 0
        for axis, size in enumerate(self.shape):
            extent = len({at[axis] for at in coords})
            links += 0 if extent == 1 else 2 if extent == size and self.rings[axis] else 1
        return max(1, links) * self.generation.link_rate


def find(name: str, slices: int = 1) -> Topology:
    """The topology of a name: a generation and a shape (v6e:2x4), or Google Cloud's accelerator type (v6e-8).

    In `v4-32` and `v5p-64` the number counts cores, two to a chip.

    Raises:
      ValueError: there is none of this name.

    >>> find("v5litepod-8").shape, find("v5p-64").num_chips, find("v6e:16x16", slices=2).num_chips
    ((2, 4), 32, 512)
    """
    if shaped := re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", name):
        kind, shape = shaped.groups()
    else:
        before, _, number = name.rpartition("-")
        kind = ACCELERATORS.get(before, "")
        shape = GENERATIONS[kind].slices.get(int(number), "") if kind and number.isdecimal() else ""
    if kind not in GENERATIONS or not shape or shape.count("x") != GENERATIONS[kind].slices[8].count("x"):
        known = [f"{before}-{number}" for before, kind in ACCELERATORS.items() for number in GENERATIONS[kind].slices]
        raise ValueError(
            f"no topology is called {name!r}; {nearest(name, known)}expected a shape such as v6e:2x4, v5e:4x4, "
            "v5p:2x2x2 or v4:2x2x4, or an accelerator type such as v6e-8, v5litepod-16, v5p-64 or v4-32"
        )
    return Topology(name, GENERATIONS[kind], kind, tuple(map(int, shape.split("x"))), slices)
