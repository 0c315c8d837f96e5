"""Topologies by name, and the links of a group of chips."""

import pytest

from lfr_jax.compile import topologies
from lfr_jax.compile.topologies import GENERATIONS, find
from lfr_jax.train.flops import PEAK_FLOPS


@pytest.mark.parametrize(
    "name, kind, shape",
    [
        ("v6e:2x4", "v6e", (2, 4)),
        ("v6e-8", "v6e", (2, 4)),
        ("v5litepod-8", "v5e", (2, 4)),
        ("v6e-256", "v6e", (16, 16)),
        ("v4-32", "v4", (2, 2, 4)),
        ("v5p-64", "v5p", (2, 4, 4)),
        ("v5p:2x2x2", "v5p", (2, 2, 2)),
    ],
)
def test_names(name, kind, shape):
    """Catches: cores of v4 and v5p taken for chips; the accelerators of tpu/topologies not known."""
    found = find(name)
    assert (found.kind, found.shape, found.generation) == (kind, shape, GENERATIONS[kind])
    assert found.num_chips == find(name, slices=2).num_chips // 2


@pytest.mark.parametrize("name", ["v6e", "v6e:2x4x2", "v5p:2x4", "v7x-8", "v6e-7", "v6e-", "h100:8", "v5litpod-8"])
def test_other_names_are_refused(name):
    """Catches: a shape of the wrong number of axes handed to libtpu, which then aborts; no hint."""
    with pytest.raises(ValueError, match="no topology is called .* expected a shape such as v6e:2x4") as raised:
        find(name)
    assert ("did you mean 'v5litepod-8'" in str(raised.value)) == (name == "v5litpod-8")


@pytest.mark.parametrize(
    "name, coords, links",
    [
        ("v6e:2x4", [(x, y, 0) for x in range(2) for y in range(4)], 2),  # a corner has two
        ("v6e:2x4", [(0, y, 0) for y in range(4)], 1),  # the end of a line
        ("v6e:16x16", [(x, y, 0) for x in range(16) for y in range(16)], 4),
        ("v6e:16x16", [(x, 3, 0) for x in range(16)], 2),  # a ring
        ("v6e:16x16", [(x, 3, 0) for x in range(4)], 1),  # a part of a ring is a line
        ("v5p:2x4x4", [(x, y, z) for x in range(2) for y in range(4) for z in range(4)], 3),  # no whole cube
        ("v5p:4x4x4", [(x, y, z) for x in range(4) for y in range(4) for z in range(4)], 6),
        ("v5p:2x2x2", [(0, 0, 0), (1, 0, 0)], 1),
    ],
)
def test_links_of_a_group(name, coords, links):
    """Catches: all links of a chip counted for a group that lies along one axis; a line taken for a ring."""
    topology = find(name)
    assert topology.link_rate(coords) == links * topology.generation.link_rate


def test_every_generation_has_its_peak():
    """Catches: a name of JAX's that the table of peaks does not have."""
    for generation in GENERATIONS.values():
        assert generation.device_kind in PEAK_FLOPS and generation.source.startswith("https://")


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    """Catches: a traceback from within JAX."""
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"libtpu is needed, .* run: pip install 'lfr_jax\[aot\]'"):
        find("v6e-8").devices()
