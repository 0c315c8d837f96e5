"""What colours, lines and fonts mean in every picture. No other file names a colour.

- A cool colour is a domain; black is all domains together.
- A warm colour, or a grey, is the class of a block (learned, forgotten, ...).
- A line style is a policy: the first one is solid, the second dashed. Policies have no colours.
- A light grey band is a phase that leaves blocks out, such as Focus. A hatched band is a scoring pass.
- In figures of an experiment, a filled black mark is charged with everything, a hollow grey one is amortised.

Colour-blind people can tell them apart: a test measures it. Green, sky blue, vermilion and orange are those of Okabe
and Ito (2008). The others are chosen so that any two of the first three domains are far apart for every eye.
"""

from collections.abc import Iterable
from typing import Any

BLUE, GREEN, PURPLE, SKY, PLUM, OLIVE = "#0A4A80", "#009E73", "#A64AD9", "#56B4E9", "#4B0055", "#999933"
VERMILION, ORANGE, DARK_RED = "#D55E00", "#E69F00", "#7A1212"

DOMAIN_COLORS = (BLUE, GREEN, PURPLE, SKY, PLUM, OLIVE)
DOMAIN_MARKERS = ("o", "s", "^", "D", "v", "P")  # beside the colours, for print in black and white
ALL_DOMAINS = "black"
CLASS_COLORS = {
    "learned": "0.68",
    "unlearned": "0.35",
    "forgotten": VERMILION,
    "relearned": ORANGE,
    "multiple descent": DARK_RED,
}
POLICY_LINES = ("-", (0, (4, 1.6)), (0, (1, 1.4)), (0, (6, 1.6, 1, 1.6)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
LEAVES_OUT = "0.92"  # the band of a phase that leaves blocks out
SCORING = dict(facecolor="none", edgecolor="0.7", hatch="////", lw=0.0)  # the band of a scoring pass
RATES = "Greys"  # a colour map: how often a block is drawn
EDGE, FAINT_TEXT, WHITE = "0.85", "0.35", "white"  # of phases: their edges, their names; between boxes
CHARGED, AMORTISED = "black", "0.5"  # what an arm of an experiment spent: all of it, or without its references
REFERENCE_LINE, INTERVAL = "0.45", "0.9"  # lines to compare with, such as no difference; the band of an interval

# In points, for figures 11 inches wide: readable on a slide, and at the 900 pixels that GitHub gives a picture.
STYLE: dict[str, Any] = {
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.labelsize": 13,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "lfr",  # the same figure gives the same file
}


def domain_colors(domains: Iterable[str]) -> dict[str, str]:
    """The colour of each domain, in the order of `domains`; "all" is black.

    >>> domain_colors(["code", "prose"])
    {'code': '#0A4A80', 'prose': '#009E73', 'all': 'black'}
    """
    return assign(domains, DOMAIN_COLORS) | {"all": ALL_DOMAINS}


def domain_markers(domains: Iterable[str]) -> dict[str, str]:
    """The mark of each domain's points, in the order of `domains`; "all" has none."""
    return assign(domains, DOMAIN_MARKERS) | {"all": ""}


def policy_lines(policies: Iterable[str]) -> dict[str, Any]:
    """The line style of each policy, in the order of `policies`."""
    return assign(policies, POLICY_LINES)


def assign(names: Iterable[str], values: tuple) -> dict[str, Any]:
    """Gives the names the values in turn; from the start again, where there are more names than values."""
    return {name: values[number % len(values)] for number, name in enumerate(names)}
