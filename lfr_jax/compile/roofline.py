"""How fast a compiled program can be at best: its FLOPs, HBM bytes and link bytes over what is published of the chip.

A bound, not a forecast: real chips reach no peak, and what is not counted here takes time too (Williams et al. 2009,
"Roofline").
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax

from lfr_jax.compile.collectives import Collective
from lfr_jax.compile.topologies import Generation, Topology


class Bound(NamedTuple):
    """The least seconds of one call of a program, by cause."""

    compute: float  # its FLOPs at the peak
    hbm: float  # its bytes from and to HBM
    links: float  # what its collectives send, if nothing else went on meanwhile
    exposed: float  # of that, what nothing hides

    @property
    def seconds(self) -> float:
        """Compute and HBM at once, and then the communication that nothing hides."""
        return max(self.compute, self.hbm) + self.exposed

    @property
    def share_exposed(self) -> float:
        """Of the bound, how much is communication that nothing hides."""
        return self.exposed / self.seconds if self.seconds else 0.0


def bound(
    flops: float,
    hbm_bytes: float,
    collectives: Sequence[Collective],
    mesh: jax.sharding.Mesh,
    topology: Topology,
    peak: float,
) -> Bound:
    """The bound of a program on a mesh of a topology. `flops`, `hbm_bytes` and `peak` (FLOP/s) are of one chip.

    A synchronous collective hides behind nothing. An asynchronous one hides behind the products between its start and
    its done, at the peak; each by itself, as if no other hid behind the same ones.
    """
    links = [(each, seconds(each, mesh, topology)) for each in collectives]
    exposed = sum(max(0.0, time - each.times * each.flops_meanwhile / peak) for each, time in links)
    rate = topology.generation.hbm_rate
    return Bound(flops / peak, hbm_bytes / rate, sum(time for _, time in links), exposed)


def seconds(collective: Collective, mesh: jax.sharding.Mesh, topology: Topology) -> float:
    """The least seconds that a collective takes, for all times together.

    Within a slice, each chip's links limit it. Between slices, each chip sends its share of what crosses, which is what
    the chips at its place in the other slices have: an all-reduce does so between a reduce-scatter and an all-gather.
    """
    devices = mesh.devices.flat
    members = [devices[position] for position in collective.group]
    by_slice: dict[int, list] = {}
    for device in members:
        by_slice.setdefault(getattr(device, "slice_index", 0), []).append(device)
    slices, within = len(by_slice), max(by_slice.values(), key=len)
    time = 0.0
    if len(within) > 1:
        inner = collective._replace(group=tuple(range(len(within))))
        if collective.kind == "all-gather":
            inner = inner._replace(operand_bytes=collective.operand_bytes * slices)
        time += inner.wire_bytes / topology.link_rate([device.coords for device in within])
    if slices > 1:
        share = 1 if collective.kind in ("all-gather", "collective-permute") else len(within)
        outer = collective._replace(group=tuple(range(slices)), operand_bytes=collective.operand_bytes // share)
        time += outer.wire_bytes / network_rate(topology.generation)
    return time


def network_rate(generation: Generation) -> float:
    """Bytes a second between slices, for one chip; no limit where nothing is published."""
    return generation.network_rate or math.inf
