"""Panels of a figure: their grid, their axes, and text in them."""

import functools
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

from lfr_jax.experiments import palette
from lfr_jax.terminal import printable

WIDTH = 11.0  # of a figure, inches
COLUMNS = 4  # panels beside each other


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws with the fonts and sizes of `palette.STYLE`."""

    @functools.wraps(draw)
    def in_style(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(palette.STYLE):
            return draw(*args, **kwargs)

    return in_style


def panel_grid(groups: int, each: int, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `groups` × `each` panels. Every group begins a row, of at most `COLUMNS` panels."""
    columns = min(COLUMNS, each)
    rows = -(-each // columns)
    drawing = Figure(figsize=(WIDTH, 3.6 * groups * rows + 0.5), layout="constrained")
    panels = drawing.subplots(groups * rows, columns, squeeze=False, **shared).reshape(groups, -1)
    for unused in panels[:, each:].ravel():
        unused.remove()
    return drawing, list(panels[:, :each].ravel())


def add_legend(drawing: Figure, handles: list[Artist]) -> None:
    """Adds a legend below all panels, in as few rows as fit into the width of the figure."""
    rows, width = 1, np.inf
    while width > drawing.get_figwidth() and rows <= len(handles):
        columns = np.array_split([len(str(handle.get_label())) for handle in handles], -(-len(handles) // rows))
        width = sum(0.09 * max(column) + 0.75 for column in columns)  # inches: a letter, a mark with its margins
        rows += 1
    drawing.legend(handles=handles, loc="outside lower center", ncols=len(columns))


def use_perplexity_axis(axes: Axes) -> None:
    """Makes the y axis logarithmic, with numbers that need no powers."""
    axes.set_yscale("log")
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel("perplexity")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def use_flops_axis(axes: Axes) -> None:
    """Labels the x axis as FLOPs: "500 G", "1 T"."""
    axes.set_xlabel("FLOPs, scoring included")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.locator_params(axis="x", nbins=5)


def leave_headroom(axes: Axes, share: float = 0.2) -> None:
    """Leaves room for the names of the phases: `share` of the height, above what is drawn."""
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        axes.set_ylim(low, high * (high / low) ** share)
    else:
        axes.set_ylim(low, high + (high - low) * share)


def short_name(name: str) -> str:
    """A name that has room above a panel."""
    return escape_math(name if len(name) <= 28 else name[:27] + "…")


def escape_math(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return printable(text).replace("$", r"\$")
