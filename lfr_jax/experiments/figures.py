"""The figures of a report: matplotlib figures, drawn from what runs left behind."""

from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

from lfr_jax.experiments.results import Results, printable, read
from lfr_jax.experiments.trajectories import CLASSES, Census
from lfr_jax.storage.paths import Path

WIDTH = 11.0  # inches
COLUMNS = 4  # panels beside each other
# The palette of Okabe and Ito (2008), which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
LINES = ("-", "--", ":", "-.")
CLASS_COLORS = dict(zip(CLASSES, ("0.65", "black", RED, BLUE, ORANGE), strict=True))


def losses(run_dirs: dict[str, Path]) -> Figure:
    """On the left the training loss, with the phases; on the right the held-out loss of each domain."""
    train = {name: read(path / "metrics.csv") for name, path in run_dirs.items()}
    held_out = {name: read(path / "eval.csv") for name, path in run_dirs.items()}
    domains = sorted({row["domain"] for rows in held_out.values() for row in rows} - {"all"})
    drawing = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for name, of_phase in groupby(next(iter(train.values())), key=lambda row: row["phase"]):
        x = flops_of(list(of_phase))
        mark(left, name, x[0], x[-1], grey=name.startswith("focus"))
    for number, (name, rows) in enumerate(train.items()):
        x, y = flops_of(rows), smoothed([float(row["loss"]) for row in rows])
        left.plot(x, y, label=plain(name), lw=1.2, color=cycled(COLORS, number))
    left.set(title="training loss (running mean)", ylabel="nats per token")
    cost(left)
    left.legend()
    for number, (name, rows) in enumerate(held_out.items()):
        flops_at = {row["step"]: float(row["flops"]) for row in train[name]}
        for color, domain in enumerate([*domains, "all"]):
            points = [(flops_at[row["step"]], float(row["loss"])) for row in rows if row["domain"] == domain]
            right.plot(
                *zip(*points), color="black" if domain == "all" else cycled(COLORS, color), ls=cycled(LINES, number),
                label=plain(f"{domain}, {name}"), lw=2 if domain == "all" else 1,
            )  # fmt: skip
    right.set(title="held-out loss", ylabel="nats per token")
    cost(right)
    right.legend(fontsize="small", ncols=2)
    return drawing


def timeline(runs: list[Results]) -> Figure:
    """The phases of each run: how often a block of each domain is drawn, and the share of them that is drawn at all."""
    heights = [0.9 + 0.4 * len(run.domains) for run in runs]
    drawing = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    all_axes = drawing.subplots(len(runs), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    rates = [np.array([run.rate_NxP[run.domain_N == d].mean(axis=0) for d in run.domains]) for run in runs]
    highest = max(2.0, *(rate_DxP.max() for rate_DxP in rates))
    longest = max(run.phases[-1].stop for run in runs)
    for axes, run, rate_DxP in zip(all_axes, runs, rates):
        edges = [*(phase.start for phase in run.phases), run.phases[-1].stop]
        mesh = axes.pcolormesh(
            edges, np.arange(len(run.domains) + 1), rate_DxP, cmap="Blues", vmin=0, vmax=highest,
            edgecolors="white", linewidth=2,
        )  # fmt: skip
        for column, phase in enumerate(run.phases):
            wide = (phase.stop - phase.start) / longest * 0.8 * WIDTH  # inches
            middle = (phase.start + phase.stop) / 2
            axes.text(
                middle, -0.05, plain(phase.name), ha="center", va="bottom", fontsize="small",
                rotation=0 if wide > 0.08 * len(phase.name) else 90,
            )  # fmt: skip
            for row, domain in enumerate(run.domains):
                kept = np.mean(run.rate_NxP[run.domain_N == domain, column] > 0)
                rate = rate_DxP[row, column]
                if wide > 0.36:
                    axes.text(
                        middle, row + 0.5, f"{100 * kept:.0f} %\n×{rate:.2g}", ha="center", va="center",
                        fontsize="x-small", color="white" if rate > 0.6 * highest else "black", linespacing=1.1,
                    )  # fmt: skip
        axes.set_yticks(np.arange(len(run.domains)) + 0.5, [title(domain) for domain in run.domains])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_ylabel(title(run.name), fontweight="bold")
        axes.spines[:].set_visible(False)
    all_axes[-1].set_xlabel("steps")
    drawing.colorbar(mesh, ax=list(all_axes), label="draws of a block,\nrelative to the average block", pad=0.01)
    return drawing


def sampled(runs: list[Results], censuses: list[Census], count: int = 50) -> Figure:
    """Perplexity of `count` probes, evenly spaced over all of them, and that of a domain's tokens."""
    chosen = np.argsort(runs[0].domain_N, kind="stable")
    shown_N = np.isin(np.arange(len(chosen)), chosen[evenly(len(chosen), count)])
    return blocks_of_each_domain(runs, censuses, [shown_N] * len(runs), CLASSES)


def forgotten(runs: list[Results], censuses: list[Census], count: int = 30) -> Figure:
    """Perplexity of blocks that rose after they had fallen: at most `count` of each class and domain."""
    kinds = ("forgotten", "relearned", "multiple descent")
    shown = [np.zeros(len(run.block_N), bool) for run in runs]
    for run, census, shown_N in zip(runs, censuses, shown):
        for domain in run.domains:
            for name in kinds:
                (of_class,) = np.nonzero((run.domain_N == domain) & (census.class_N == CLASSES.index(name)))
                shown_N[of_class[evenly(len(of_class), count)]] = True
    return blocks_of_each_domain(runs, censuses, shown, kinds)


def blocks_of_each_domain(runs: list[Results], censuses: list[Census], shown: list[np.ndarray], kinds) -> Figure:
    """A panel for each run and domain: perplexities of the blocks `shown`, coloured by class, and the domain's."""
    domains = runs[0].domains
    drawing, panels = grid(len(runs), len(domains), sharey=True)
    for axes, (run, census, shown_N, domain) in zip(
        panels, [(*of_run, domain) for of_run in zip(runs, censuses, shown) for domain in domains], strict=True
    ):
        here_N = run.domain_N == domain
        for name in kinds:
            drawn_N = here_N & shown_N & (census.class_N == CLASSES.index(name))
            axes.plot(run.step_M, np.exp(run.loss_NxM[drawn_N]).T, color=CLASS_COLORS[name], lw=0.7, alpha=0.8)
        axes.plot(run.step_M, np.exp(run.loss_of(here_N)), color=GREEN, lw=2.2)
        found = np.isin(census.class_N[here_N], [CLASSES.index(name) for name in kinds]).sum()
        axes.set_title(f"{title(f'{run.name}: {domain}')}\n{shown_N[here_N].sum()} of {found}", fontsize="medium")
        axes.set_xlabel("steps")
        mark_phases(axes, run, {step: step for phase in run.phases for step in phase[1:3]})
        logarithmic(axes)
    headroom(panels[0])
    key = [Line2D([], [], color=CLASS_COLORS[name], label=name) for name in kinds]
    key.append(Line2D([], [], color=GREEN, lw=2.2, label="all probes of the domain"))
    drawing.legend(handles=key, loc="outside lower center", ncols=len(key), frameon=False)
    return drawing


def means(runs: list[Results], owner: Results, chosen_N: np.ndarray) -> Figure:
    """The perplexity of the probes `chosen_N` under each run, against FLOPs; the phases are those of `owner`.

    It is the exponential of the mean loss of their tokens.
    """
    everywhere_N = np.ones(len(chosen_N), bool)
    groups = {"all domains": everywhere_N} | {domain: runs[0].domain_N == domain for domain in runs[0].domains}
    groups = {name: here_N for name, here_N in groups.items() if (here_N & chosen_N).any()}
    drawing, panels = grid(1, len(groups))
    for axes, (name, here_N) in zip(panels, groups.items(), strict=True):
        for number, run in enumerate(runs):
            axes.plot(
                [run.flops[step] for step in run.step_M], np.exp(run.loss_of(here_N & chosen_N)),
                color=cycled(COLORS, number), ls=cycled(LINES, number), marker=".", ms=4, label=plain(run.name),
            )  # fmt: skip
        axes.set_title(f"{title(name)}\n{(here_N & chosen_N).sum()} of {here_N.sum()}", fontsize="medium")
        mark_phases(axes, owner, owner.flops)
        cost(axes)
        logarithmic(axes)
        headroom(axes)
    panels[0].legend()
    return drawing


def words(text: str) -> Figure:
    """A figure that says why there is none."""
    drawing = Figure(figsize=(WIDTH, 0.8))
    drawing.text(0.01, 0.5, plain(text), va="center", fontsize="large")
    return drawing


def grid(groups: int, each: int, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `groups` × `each` panels. Every group begins a row, of at most `COLUMNS` panels."""
    columns = min(COLUMNS, each)
    rows = -(-each // columns)
    drawing = Figure(figsize=(WIDTH, 3.4 * groups * rows + 0.3), layout="constrained")
    panels = drawing.subplots(groups * rows, columns, squeeze=False, **shared).reshape(groups, -1)
    for unused in panels[:, each:].ravel():
        unused.remove()
    return drawing, list(panels[:, :each].ravel())


def logarithmic(axes: Axes) -> None:
    """Makes it an axis of perplexities, with numbers that need no powers."""
    axes.set_yscale("log")
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel("perplexity")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def headroom(axes: Axes) -> None:
    """Leaves room for the names of the phases, above what is drawn."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.2)


def cost(axes: Axes) -> None:
    axes.set_xlabel("FLOPs, scoring included")
    axes.xaxis.set_major_formatter(EngFormatter())


def mark_phases(axes: Axes, run: Results, x_of: dict[int, float]) -> None:
    """Marks a run's phases, in grey those that leave a probe out. `x_of`: where a step stands, if it was reached."""
    for column, phase in enumerate(run.phases):
        last = x_of.get(phase.stop, max(x_of.values()))
        grey = not run.rate_NxP[:, column].all()
        mark(axes, phase.name if len(run.phases) < 10 else "", x_of[phase.start], last, grey, upright=True)


def mark(axes: Axes, name: str, first: float, last: float, grey: bool, upright: bool = False) -> None:
    """Marks a phase, by lines where it begins and ends, and its name."""
    axes.axvspan(first, last, facecolor="0.92" if grey else "none", edgecolor="0.85", lw=0.8, zorder=0)
    axes.text(
        first, 0.99, f" {plain(name)}", transform=axes.get_xaxis_transform(), va="top", fontsize="small", color="0.4",
        rotation=90 if upright else 0,
    )  # fmt: skip


def evenly(available: int, count: int) -> np.ndarray:
    """Indices of at most `count` of `available` things, evenly spaced."""
    return np.linspace(0, available - 1, min(count, available)).round().astype(int)


def flops_of(rows: list[dict[str, Any]]) -> list[float]:
    return [float(row["flops"]) for row in rows]


def smoothed(values: list[float], share: float = 0.9) -> list[float]:
    """Exponential running mean, corrected for its start."""
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = share * total + (1 - share) * value, share * weight + (1 - share)
        means.append(total / weight)
    return means


def cycled(values: tuple[str, ...], number: int) -> str:
    return values[number % len(values)]


def title(name: str) -> str:
    """A name that has room above a panel."""
    return plain(name if len(name) <= 28 else name[:27] + "…")


def plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return printable(text).replace("$", r"\$")
