"""One palette, which colour-blind people can read."""

import itertools
import pathlib
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lfr_jax.experiments import palette
from lfr_jax.experiments.trajectories import CLASSES

ROOT = pathlib.Path(__file__).parents[2]
# Machado, Oliveira and Fernandes (2009), severity 1: what of linear RGB a colour-blind person sees.
SEEN_WITH = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def oklab(color: str, seen: np.ndarray) -> np.ndarray:
    """Coordinates in which equal distances look about equally large: Ottosson (2020)."""
    rgb = np.array(to_rgb(color))
    linear = np.clip(seen @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    cones = np.cbrt(
        np.array(
            [
                [0.41222147, 0.53633254, 0.05144599],
                [0.2119035, 0.6806995, 0.10739696],
                [0.08830246, 0.28171884, 0.62997870],
            ]
        )
        @ linear
    )
    return (
        np.array(
            [
                [0.21045426, 0.79361779, -0.00407205],
                [1.97799850, -2.42859221, 0.45059371],
                [0.02590404, 0.78277177, -0.80867577],
            ]
        )
        @ cones
    )


@pytest.mark.parametrize("eye", SEEN_WITH)
@pytest.mark.parametrize(
    "colors",
    [(*palette.DOMAIN_COLORS, palette.ALL_DOMAINS), tuple(palette.CLASS_COLORS.values())],
    ids=["domains", "classes"],
)
def test_colours_of_one_panel_can_be_told_apart(colors, eye):
    """Catches: a pair such as matplotlib's own green and red, which are one colour to one man in twelve; a pair that is
    hard to tell apart among the first three domains, all that most corpora have."""
    seen = {color: oklab(color, SEEN_WITH[eye]) for color in colors}
    for one, other in itertools.combinations(colors, 2):
        few = {one, other} <= {*palette.DOMAIN_COLORS[:3], palette.ALL_DOMAINS}
        assert np.linalg.norm(seen[one] - seen[other]) > (0.15 if few else 0.06), (one, other)
    for one, place in seen.items():  # and from white paper, and from the bands
        for paper in ("white", palette.LEAVES_OUT):
            assert np.linalg.norm(place - oklab(paper, SEEN_WITH[eye])) > 0.15, (one, paper)


def test_no_colour_means_two_things():
    """Catches: a colour that is a domain in one figure and a class in the next; a class without a colour."""
    assert set(palette.CLASS_COLORS) == set(CLASSES)
    domains, classes = {*palette.DOMAIN_COLORS, palette.ALL_DOMAINS}, set(palette.CLASS_COLORS.values())
    assert len(domains) == len(palette.DOMAIN_COLORS) + 1 and len(classes) == len(CLASSES)
    assert not domains & classes and palette.LEAVES_OUT not in domains | classes
    assert len(set(palette.POLICY_LINES)) == len(palette.POLICY_LINES) == len(palette.DOMAIN_MARKERS)


def test_names_get_the_same_in_every_figure():
    """Catches: names beyond the last colour that are left out; "all" in a domain's colour."""
    many = [f"d{number}" for number in range(8)]
    colors = palette.domain_colors(many)
    assert colors["d6"] == colors["d0"] != colors["d1"] and colors["all"] == palette.ALL_DOMAINS
    assert list(palette.policy_lines(many))[:8] == many and palette.domain_markers(many)["all"] == ""


def test_no_other_file_names_a_colour():
    """Catches: a figure with a palette of its own."""
    drawing = [*(ROOT / "lfr_jax" / "experiments").glob("*.py"), *(ROOT / "tools").glob("policy_*.py")]
    assert len(drawing) > 8
    named = r"""#[0-9A-Fa-f]{6}\b|["']0?\.\d+["']|\b(?:tab|C\d):|color=["'](?!black)|cmap=["']"""
    for path in drawing:
        text = path.read_text().partition("</style>")[2] or path.read_text()  # the page's own style is no figure
        if path.name != "palette.py":
            assert not re.search(named, text), (path.name, re.search(named, text))
