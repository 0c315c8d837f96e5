"""Draws the picture of a policy for `tools/policy_docs.py --figures`: how often a short run drew from each domain.

Curves that coincide stay visible: each domain has a thinner line than the one below it.
"""

import csv
import pathlib
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lfr_jax import schedule
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.experiments import palette
from lfr_jax.experiments.panels import add_legend, escape_math, leave_headroom
from lfr_jax.experiments.time_axis import Span, mark_spans, span_key
from lfr_jax.storage.run_dir import RunDir

WIDTHS = (6.5, 4.0, 1.8)  # of the lines of the domains, in points
BATCHES, BATCH = 400, 16  # over which the weights of `linupper` are averaged: random batches of probes


def draw(run: pathlib.Path, out: pathlib.Path) -> None:
    """Draws the mean rate of each domain over the steps of a run; for `linupper`, the weight of its losses too."""
    config = RunDir(run).load_config()
    blocks = open_corpus(config.data).train
    with matplotlib.rc_context(palette.STYLE):
        drawing = draw_run(run, blocks, weighted=config.schedule.policy == "linupper")
        drawing.savefig(out, dpi=100)
    print(f"{out}: {out.stat().st_size / 1024:.0f} KB", flush=True)


def draw_run(run: pathlib.Path, blocks: Blocks, weighted: bool) -> Figure:
    """The figure. `weighted`: whether the policy weighs losses by `linupper`."""
    spans, rate_PxD = read_rates(run, blocks)
    drawing = Figure(figsize=(9, 3.9), layout="constrained")
    panels = drawing.subplots(1, 1 + weighted, squeeze=False)[0]
    edges = [*(span.first for span in spans), spans[-1].last]
    draw_domains(panels[0], blocks.domains, lambda axes, d, **line: axes.stairs(
        rate_PxD[:, d], edges, baseline=None, **line
    ))  # fmt: skip
    panels[0].set_ylabel("draws of a block\n(average block: 1)")
    if weighted:
        steps, weight_MxD = read_weights(run, blocks, [int(span.first) for span in spans])
        draw_domains(panels[1], blocks.domains, lambda axes, d, **line: axes.plot(steps, weight_MxD[:, d], **line))
        panels[1].set_ylabel("weight of its loss\n(average in the batch: 1)")
    for axes in panels:
        axes.axhline(1, color=palette.EDGE, lw=0.8, zorder=0)
        axes.set(xlabel="steps", xlim=(0, edges[-1]))
        top = max(axes.get_ylim()[1], 1.1)
        axes.set_ylim(-0.03 * top, 1.03 * top)
        leave_headroom(axes, 0.45 if len(spans) < 10 else 0.05)  # for the names of the phases
        mark_spans(axes, spans)
    if len(spans) >= 10:  # too many for names
        drawing.suptitle(f"{len(spans)} phases, from {spans[0].name} to {spans[-1].name}", fontsize="medium")
    key = [
        Line2D([], [], color=color, lw=width, label=escape_math(domain))
        for domain, color, width in zip(blocks.domains, palette.domain_colors(blocks.domains).values(), WIDTHS)
    ]
    add_legend(drawing, [*key, *span_key(spans, "the phase")])
    return drawing


def draw_domains(axes: Axes, domains: list[str], draw_line: Callable) -> None:
    """Calls `draw_line(axes, index of the domain, color=, lw=, ...)` for each domain, the thickest line first."""
    for number, color in enumerate(palette.assign(domains, palette.DOMAIN_COLORS).values()):
        draw_line(axes, number, color=color, lw=WIDTHS[number % len(WIDTHS)], zorder=2 + number)


def read_rates(run: pathlib.Path, blocks: Blocks) -> tuple[list[Span], np.ndarray]:
    """The phases of a run, and f64[P, D]: the mean rate of the probes of each domain in each phase."""
    by_phase: dict[tuple[int, int, str], list[list[float]]] = {}
    for row in read_rows(run / "scores" / "rates.csv"):
        phase = int(row["step"]), int(row["stop"]), row["phase"]
        of_domains = by_phase.setdefault(phase, [[] for _ in blocks.domains])
        of_domains[blocks.domain_N[int(row["block"])]].append(float(row["rate"]))
    spans = [
        Span(name, start, start, stop, any(rate == 0 for rates in of_domains for rate in rates))
        for (start, stop, name), of_domains in by_phase.items()
    ]
    return spans, np.array([[np.mean(rates) for rates in of_domains] for of_domains in by_phase.values()])


def read_weights(run: pathlib.Path, blocks: Blocks, starts: list[int]) -> tuple[list[int], np.ndarray]:
    """The steps at which probes were measured, and f64[M, D]: the mean weight of each domain in random batches.

    The batches are drawn from the probes as training draws them from the corpus: a domain comes up as often as it has
    blocks.
    """
    losses: dict[int, dict[int, float]] = {}
    for row in read_rows(run / "scores" / "probes.csv"):
        losses.setdefault(int(row["step"]), {})[int(row["block"])] = float(row["loss"])
    ids = np.array(list(losses[0]))
    domain_N = np.asarray(blocks.domain_N)[ids]
    share_N = (np.bincount(np.asarray(blocks.domain_N)) / np.bincount(domain_N))[domain_N]
    drawn = np.random.default_rng(0).choice(len(ids), (BATCHES, BATCH), p=share_N / share_N.sum())
    policy = schedule.linupper()
    states = [policy.begin(policy.init(schedule.BlockInfo(len(ids))), index) for index in range(len(policy.phases))]
    weights = []
    steps = []
    for step, of_block in losses.items():
        loss_N = np.array([of_block[block] for block in ids], np.float32)
        # Where a phase begins, the weights jump: once as the phase before has them, once as this one has.
        indices = {int(np.searchsorted(starts, step, side=side)) - 1 for side in ("left", "right")} - {-1}
        for index in sorted(indices):
            weight = np.array([policy.loss_weights(states[index], batch, loss_N[batch]) for batch in drawn])
            weights.append([weight[domain_N[drawn] == domain].mean() for domain in range(len(blocks.domains))])
            steps.append(step)
    return steps, np.array(weights)


def read_rows(path: pathlib.Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
