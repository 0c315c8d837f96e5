"""The figures of an experiment: loss against FLOPs, multipliers, differences by domain.

They are black and grey: names stand beside the marks, so no colour has to be told from another. Domains alone have
their colours, as everywhere.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, NullLocator
from scipy.optimize import isotonic_regression

from lfr_jax.experiments import palette
from lfr_jax.experiments.evidence import BASELINE, COSTS, ORACLE, Evidence, Point
from lfr_jax.experiments.panels import COLUMNS, WIDTH, add_legend, short_name, styled
from lfr_jax.experiments.statistics import Estimate
from lfr_jax.experiments.tables import in_words, on_one_line, times

ROW = 0.62  # inches, of an arm in a figure with a row for each
LINE = 0.055  # of a name, as a share of the height of the first figure's panel
LOOKS = {"charged": (palette.CHARGED, "D", palette.CHARGED), "amortised": (palette.AMORTISED, "D", palette.WHITE)}


@styled
def draw_losses(found: Evidence, primary: str) -> Figure:
    """The baseline's loss against FLOPs with the fitted curve, and each arm at what it spent.

    From each arm a level line leads to the curve. On the logarithmic axis its length is the multiplier.
    """
    drawing = Figure(figsize=(WIDTH, 6.2), layout="constrained")
    axes = drawing.subplots()
    axes.set_xscale("log")
    arms = [point for point in found.arms if np.isfinite(point.loss().value)]
    equal = [equal_flops(point) for point in arms]
    spent = [flops for point in (*found.baseline, *arms) for flops in map(point.flops, COSTS)]
    low, high = limits([*spent, *equal])
    if found.curve:
        x = np.geomspace(low, high, 400)
        inside = (x >= found.curve.flops_K.min()) & (x <= found.curve.flops_K.max())
        lowest, highest = (end([p.loss().value for p in (*found.baseline, *arms)]) for end in (min, max))
        y = found.curve.loss(x)
        shown = (y > lowest - 0.03 * (highest - lowest)) & (y < highest + 0.03 * (highest - lowest))
        axes.plot(x[shown], y[shown], color=palette.REFERENCE_LINE, lw=1.2, ls=palette.POLICY_LINES[2])
        axes.plot(x[inside], y[inside], color=palette.CHARGED, lw=1.6)
    for point in found.baseline:
        draw_point(axes, point.flops(), point.loss(), (palette.CHARGED, "o", palette.CHARGED))
        axes.annotate(
            times(point.budget), (point.flops(), point.loss().value), (-5, -13), textcoords="offset points",
            ha="right", fontsize="small", color=palette.FAINT_TEXT,
        )  # fmt: skip
    for point, end in zip(arms, equal):
        first, last = min(point.flops("amortised"), point.flops(), end), max(point.flops(), end)
        axes.plot([first, last], [point.loss().value] * 2, color=palette.REFERENCE_LINE, lw=1, zorder=1)
        if point.mean("reference_flops"):
            draw_point(axes, point.flops("amortised"), bar_of(point), LOOKS["amortised"])
        draw_point(axes, point.flops(), bar_of(point), LOOKS["charged"])
    axes.set(xlabel="FLOPs", ylabel=f"held-out loss ({short_name(found.measure)}), nats per token", xlim=(low, high))
    use_log_axis(axes, (1, 2, 5), EngFormatter())
    name_arms(axes, arms, equal, primary)
    label = f"{BASELINE} at several budgets"
    key = [Line2D([], [], color=palette.CHARGED, marker="o", lw=1.6, label=label)]
    if found.curve:
        label = "extrapolated"
        key.append(Line2D([], [], color=palette.REFERENCE_LINE, ls=palette.POLICY_LINES[2], lw=1.2, label=label))
    add_legend(drawing, key + cost_key(found.arms))
    return drawing


@styled
def draw_multipliers(found: Evidence, primary: str) -> Figure:
    """A row for each arm: its multiplier with its interval, charged with everything and amortised."""
    drawing = Figure(figsize=(WIDTH, 1.9 + ROW * len(found.arms)), layout="constrained")
    axes = drawing.subplots()
    axes.set_xscale("log")
    known = [estimate for point in found.arms for cost in COSTS if (estimate := point.multiplier(cost))]
    low, high = limits([1.0, *(x for estimate in known for x in (estimate.value, estimate.low, estimate.high))])
    for row, point in enumerate(found.arms):
        costs, apart = (COSTS, 0.17) if point.mean("reference_flops") else (COSTS[:1], 0.0)
        for cost, y in zip(costs, (row - apart, row + apart)):
            estimate = point.multiplier(cost)
            if estimate:
                draw_point(axes, 0.0, within(estimate, low, high), LOOKS[cost], y)
                if estimate.high > high:
                    axes.plot(high, y, ">", color=LOOKS[cost][0], clip_on=False)
                if estimate.low < low:
                    axes.plot(low, y, "<", color=LOOKS[cost][0], clip_on=False)
            axes.annotate(
                on_one_line(estimate, ".2f") + (" amortised" if cost == "amortised" else ""), (1, y), (14, 0),
                xycoords=axes.get_yaxis_transform(), textcoords="offset points", va="center", annotation_clip=False,
                fontsize="small", color="black" if cost == "charged" else palette.FAINT_TEXT,
            )  # fmt: skip
    axes.axvline(1, color="black", lw=1, zorder=1)
    if found.oracle and (ceiling := found.oracle.multiplier()):
        mark_ceiling(axes, within(ceiling, low, high))
    axes.set_xlim(low, high)
    use_log_axis(axes, (1, 1.5, 2, 3, 5, 7), FuncFormatter(lambda x, _: times(x)))
    label_rows(axes, [point.name for point in found.arms], {p.name for p in found.arms if p.arm == primary})
    few = "\none seed: no intervals, an anecdote" if all(estimate.seeds == 1 for estimate in known) else ""
    axes.set_xlabel(f"effective-token multiplier: how many times the FLOPs the {BASELINE} needs for the same loss{few}")
    add_legend(drawing, cost_key(found.arms))
    return drawing


@styled
def draw_domains(found: Evidence, primary: str) -> Figure:
    """A panel for each arm: the difference of held-out loss to the baseline, over all text and by domain."""
    arms = [point for point in found.arms if point.difference() is not None]
    rows = {"all, micro": "micro", "all, macro": "macro"} | {domain: domain for domain in found.domains}
    colors, marks = palette.domain_colors(found.domains), palette.domain_markers(found.domains)
    columns = max(1, min(COLUMNS, len(arms)))
    height = max(1, -(-len(arms) // columns))
    drawing = Figure(figsize=(WIDTH, height * (0.8 + 0.34 * len(rows)) + 0.6), layout="constrained")
    grid = drawing.subplots(height, columns, squeeze=False, sharex=True, sharey=True)
    for unused in grid.ravel()[len(arms) :]:
        unused.remove()
    for axes, point in zip(grid.ravel(), arms):
        axes.axvline(0, color="black", lw=1, zorder=1)
        for row, measure in enumerate(rows.values()):
            color = colors.get(measure, palette.ALL_DOMAINS)
            draw_point(axes, 0, point.difference(measure), (color, marks.get(measure, "D"), color), row)
        axes.set_title(short_name(point.name), fontweight="bold" if point.arm == primary else "normal")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: in_words(x, "+g" if x else "g")))
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelbottom=True)
        label_rows(axes, list(rows), {"all, micro", "all, macro"})
    drawing.supxlabel(
        f"difference of held-out loss to the {BASELINE}, nats per token: left of the line is better",
        fontsize=palette.STYLE["axes.labelsize"],
    )
    return drawing


def draw_point(axes: Axes, x: float, estimate: Estimate, look: tuple[str, str, str], row: float | None = None) -> None:
    """Draws an estimate with its interval, if it has one: level in a row; or, without a row, upright at `x`.

    Args:
      look: colour, marker, and the colour that fills the marker.
    """
    color, marker, face = look
    interval, value = [estimate.low, estimate.high], estimate.value
    across = [row if row is not None else x] * 2
    (ends, place) = ((interval, across), (value, row)) if row is not None else ((across, interval), (x, value))
    if np.isfinite(interval).all():
        axes.plot(*ends, color=color, lw=2, zorder=2)
    axes.plot(*place, marker, color=color, markerfacecolor=face, ms=7, mew=1.5, zorder=3)


def equal_flops(point: Point) -> float:
    """The FLOPs at which the baseline's curve has the loss of an arm; what the arm spent, where there is none."""
    multiplier = point.multiplier()
    return point.flops() * (multiplier.value if multiplier is not None and np.isfinite(multiplier.value) else 1.0)


def bar_of(point: Point) -> Estimate:
    """The loss of an arm, with the interval of its difference to the baseline."""
    loss, difference = point.loss(), point.difference()
    if difference is None:
        return loss
    ends = {end: loss.value + getattr(difference, end) - difference.value for end in ("low", "high")}
    return loss._replace(**ends)


def within(estimate: Estimate, low: float, high: float) -> Estimate:
    """The estimate with the ends of its interval within limits."""
    return estimate._replace(low=np.clip(estimate.low, low, high), high=np.clip(estimate.high, low, high))


def mark_ceiling(axes: Axes, ceiling: Estimate) -> None:
    """Marks the oracle's multiplier in all rows, with its interval as a band."""
    if np.isfinite([ceiling.low, ceiling.high]).all():
        axes.axvspan(ceiling.low, ceiling.high, facecolor=palette.INTERVAL, lw=0, zorder=0)
    axes.axvline(ceiling.value, color=palette.REFERENCE_LINE, ls=palette.POLICY_LINES[1], lw=1.4, zorder=1)
    axes.text(
        ceiling.value, 1.01, f"{ORACLE}: the ceiling", transform=axes.get_xaxis_transform(), ha="center", va="bottom",
        fontsize="small", color=palette.FAINT_TEXT,
    )  # fmt: skip


def name_arms(axes: Axes, arms: Sequence[Point], equal: Sequence[float], primary: str) -> None:
    """Writes the arms' names on the right of the panel, none on another, each with a thin line to its own."""
    low, high = axes.get_ylim()
    ordered = sorted(zip(arms, equal), key=lambda pair: pair[0].loss().value)
    wanted = np.array([(point.loss().value - low) / (high - low) for point, _ in ordered])
    for (point, end), place in zip(ordered, spread(wanted, LINE)):
        axes.annotate(
            short_name(point.name), (max(end, point.flops()), point.loss().value), (1.02, place),
            textcoords="axes fraction", va="center", annotation_clip=False,
            fontweight="bold" if point.arm == primary else "normal",
            arrowprops=dict(arrowstyle="-", color=palette.EDGE, lw=0.8, shrinkA=2, shrinkB=6),
        )  # fmt: skip


def spread(wanted: np.ndarray, apart: float) -> np.ndarray:
    """Rising places as near as possible to `wanted` (rising) and at least `apart` from each other.

    >>> spread(np.array([0.1, 0.5, 0.5]), 0.1).round(2).tolist()
    [0.1, 0.45, 0.55]
    """
    steps = apart * np.arange(len(wanted))
    return isotonic_regression(wanted - steps).x + steps if len(wanted) else wanted


def label_rows(axes: Axes, names: Sequence[str], bold: set[str]) -> None:
    """A row for each name, the first on top."""
    axes.set_yticks(range(len(names)), [short_name(name) for name in names])
    for label, name in zip(axes.get_yticklabels(), names):
        label.set_fontweight("bold" if name in bold else "normal")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def use_log_axis(axes: Axes, subs: tuple[float, ...], words) -> None:
    """Labels the x axis, which is logarithmic, at `subs` × 10ⁿ."""
    axes.xaxis.set_major_locator(FixedLocator(between(*axes.get_xlim(), subs)))
    axes.xaxis.set_major_formatter(words)
    axes.xaxis.set_minor_locator(NullLocator())


def between(low: float, high: float, subs: tuple[float, ...]) -> list[float]:
    """The numbers `subs` × 10ⁿ between two others.

    >>> between(0.4, 3, (1, 2, 5))
    [0.5, 1.0, 2.0]
    """
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [x for n in decades for sub in subs if low <= (x := float(f"{sub}e{n}")) <= high]


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits of a logarithmic axis, with a margin around those values that are finite and above 0."""
    known = [x for x in values if np.isfinite(x) and x > 0]
    margin = max((max(known) / min(known)) ** 0.06, 1.05)
    return min(known) / margin, max(known) * margin


def cost_key(arms: Sequence[Point]) -> list[Line2D]:
    """What a legend says of filled marks, and of hollow ones where an arm has references."""
    words = dict(charged="an arm, charged with everything", amortised="the same run, references amortised")
    return [
        Line2D([], [], color=color, marker=marker, markerfacecolor=face, ls="", label=words[cost])
        for cost, (color, marker, face) in LOOKS.items()
        if cost == "charged" or any(point.mean("reference_flops") for point in arms)
    ]
