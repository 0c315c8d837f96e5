"""Where the phases and the scoring passes of a run lie on an axis of FLOPs or of steps.

A scoring pass costs FLOPs and trains nothing. So on an axis of FLOPs it has a width, and every curve is level in it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lfr_jax.experiments import palette
from lfr_jax.experiments.panels import escape_math
from lfr_jax.schedule import Phase


class Span(NamedTuple):
    """A phase on an axis. Without a scoring pass, `scored_from` and `first` are equal."""

    name: str
    scored_from: float  # where the scoring pass before the phase begins
    first: float  # where the first training step begins
    last: float  # where the last training step ends, of those taken so far
    leaves_out: bool  # whether some blocks are not drawn in this phase


def flops_spans(phases: Sequence[Phase], leaves_out: Sequence[bool], flops: dict[int, float]) -> list[Span]:
    """The phases of a run on an axis of FLOPs.

    No file says what a scoring pass has cost. It is the jump of `flops` at the first step of a phase, less the cost
    of a training step. Blocks of several lengths make steps cost different amounts, so a jump counts as a
    scoring pass only where it exceeds the dearest other step of the run by half.

    Args:
      phases: those that the run has entered.
      leaves_out: for each phase, whether it leaves blocks out.
      flops: FLOPs spent after each step, scoring included; step 0 has 0.
    """
    starts = {phase.start for phase in phases}
    costs = [flops[step] - flops[step - 1] for step in flops if step - 1 in flops and step - 1 not in starts]
    spans = []
    for phase, leaves in zip(phases, leaves_out, strict=True):
        if phase.start not in flops:
            continue
        begin, scoring = flops[phase.start], 0.0
        if phase.start + 1 in flops and costs:
            jump = flops[phase.start + 1] - begin
            scoring = jump - float(np.median(costs)) if jump > 1.5 * max(costs) else 0.0
        last = flops.get(phase.stop, max(flops.values()))
        spans.append(Span(phase.name, begin, begin + scoring, max(last, begin + scoring), leaves))
    return spans


def step_spans(phases: Sequence[Phase], leaves_out: Sequence[bool]) -> list[Span]:
    """The phases of a run on an axis of steps, where scoring has no width."""
    return [Span(p.name, p.start, p.start, p.stop, leaves) for p, leaves in zip(phases, leaves_out, strict=True)]


def at_equal_cost(spans: Iterable[Span], flops: dict[int, float]) -> list[Span]:
    """The steps of a run at which it has spent as much as another run at its `spans` (in FLOPs).

    Args:
      spans: of the other run.
      flops: FLOPs that the run has spent after each step.
    """
    steps = sorted(flops)
    spent = [flops[step] for step in steps]

    def step_at(x: float) -> float:
        return float(np.interp(x, spent, steps))

    return [s._replace(scored_from=step_at(s.scored_from), first=step_at(s.first), last=step_at(s.last)) for s in spans]


class Curve(NamedTuple):
    """Points of a curve, and which of them were measured."""

    x: list[float]
    y: list[float]
    measured: list[int]  # indices


def level_in_scoring(steps: Sequence[int], y: Sequence[float], flops: dict[int, float], spans: list[Span]) -> Curve:
    """The curve through `y`, measured after `steps`, on an axis of FLOPs: level in every scoring pass.

    Scoring does not change the model, so it cannot change a loss. The level is the last measurement
    before the pass. A measurement whose step is missing in `flops`, as its row was lost, has no place, and is left out.
    """
    known = [(step, value) for step, value in zip(steps, y) if step in flops]
    points = [(flops[step], value, True) for step, value in known]
    for span in spans:
        before = [value for step, value in known if flops[step] <= span.scored_from]
        if span.first > span.scored_from and 0 < len(before) < len(known):
            points.append((span.first, before[-1], False))
    points.sort(key=lambda point: point[0])
    xs, ys, measured = (list(column) for column in zip(*points)) if points else ([], [], [])
    return Curve(xs, ys, [index for index, here in enumerate(measured) if here])


def mark_spans(axes: Axes, spans: list[Span], names: bool = True) -> None:
    """Marks phases behind a panel: grey where blocks are left out, hatched for scoring, with their names on top."""
    edges = {edge for span in spans for edge in (span.first, span.last)}
    across = axes.get_xaxis_transform()  # x in data, y in shares of the panel's height
    axes.vlines(sorted(edges), 0, 1, colors=palette.EDGE, lw=0.8, zorder=0.5, transform=across)
    for span in spans:
        if span.leaves_out:
            axes.axvspan(span.first, span.last, facecolor=palette.LEAVES_OUT, lw=0, zorder=0)
        if span.first > span.scored_from:
            axes.axvspan(span.scored_from, span.first, zorder=0, **palette.SCORING)
        if names and len(spans) < 10:
            axes.text(
                span.first, 0.99, f" {escape_math(span.name)}", transform=across, va="top",
                fontsize="small", color=palette.FAINT_TEXT, rotation=90,
            )  # fmt: skip


def span_key(spans: list[Span], owner: str) -> list[Patch]:
    """What a legend says of the bands of these spans, which belong to the run `owner`."""
    key = []
    if any(span.leaves_out for span in spans):
        key.append(Patch(facecolor=palette.LEAVES_OUT, label=escape_math(f"{owner} leaves blocks out")))
    if any(span.first > span.scored_from for span in spans):
        key.append(Patch(**palette.SCORING, label=escape_math(f"{owner} scores (no training)")))
    return key
