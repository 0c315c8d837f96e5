"""The bound, by numbers that can be checked by hand."""

import types

import numpy as np
import pytest

from lfr_jax.compile.collectives import Collective
from lfr_jax.compile.roofline import bound, seconds
from lfr_jax.compile.topologies import find

PEAK = 918e12


def mesh(slices: int = 1):
    """A 2 × 4 slice, or several."""
    chips = [
        types.SimpleNamespace(coords=(x, y, 0), slice_index=index)
        for index in range(slices)
        for x in range(2)
        for y in range(4)
    ]
    return types.SimpleNamespace(devices=np.array(chips))


def collective(kind="all-gather", size=10**9, group=tuple(range(8)), times=1, asynchronous=False, flops=0):
    return Collective(kind, size, group, times, asynchronous, flops, "", "bf16")


@pytest.mark.parametrize(
    "kind, took",
    [
        ("all-gather", 7e9 / 200e9),  # seven operands through two links of 100 GB/s
        ("reduce-scatter", 0.875e9 / 200e9),
        ("all-reduce", 1.75e9 / 200e9),
    ],
)
def test_a_collective_of_all_chips(kind, took):
    """Catches: bits for bytes; both directions of a link counted; the own part sent."""
    assert seconds(collective(kind), mesh(), find("v6e-8")) == pytest.approx(took)
    assert seconds(collective(kind, times=3), mesh(), find("v6e-8")) == pytest.approx(3 * took)


@pytest.mark.parametrize(
    "kind, within, across",
    [
        # all operands of both slices pass the links, and one operand crosses for each chip
        ("all-gather", 7 * 2e9, 1e9),
        # each chip reduces an eighth within its slice, and sends that to its partner
        ("all-reduce", 1.75e9, 1e9 / 8),
        ("reduce-scatter", 0.875e9, 1e9 / 8 / 2),
    ],
)
def test_a_collective_of_two_slices(kind, within, across):
    """Catches: all bytes through the data center's network, or none; the share of a chip not taken."""
    both = collective(kind, group=tuple(range(16)))
    assert seconds(both, mesh(2), find("v6e-8", slices=2)) == pytest.approx(within / 200e9 + across / 12.5e9)


def test_chips_at_one_place_of_two_slices_use_the_network_alone():
    """Catches: links counted for a group that has one chip in each slice."""
    pair = collective("all-reduce", group=(0, 8))
    assert seconds(pair, mesh(2), find("v6e-8", slices=2)) == pytest.approx(1e9 / 12.5e9)


def test_the_bound_is_the_slower_of_compute_and_hbm_and_what_is_exposed():
    """Catches: compute and HBM added up; communication beside products counted; more hidden than there is."""
    parts = [
        collective(),  # 35 ms, exposed
        collective(asynchronous=True, flops=PEAK * 0.020),  # 20 of 35 ms hidden
        collective(asynchronous=True, flops=PEAK * 0.050),  # hidden
        collective(asynchronous=True),  # nothing meanwhile
    ]
    found = bound(PEAK * 0.1, 1638e9 * 0.2, parts, mesh(), find("v6e-8"), PEAK)
    assert (found.compute, found.hbm, found.links) == pytest.approx((0.1, 0.2, 0.14))
    assert found.exposed == pytest.approx(0.035 + 0.015 + 0.035)
    assert found.seconds == pytest.approx(0.285)
    assert found.share_exposed == pytest.approx(0.085 / 0.285)
