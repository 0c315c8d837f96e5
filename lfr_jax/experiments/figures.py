"""The figures of a report that show single blocks and domains, from the probes of one run or of two.

Colours, line styles and fonts are those of `palette`. The grey and hatched bands are explained in `time_axis`.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lfr_jax.experiments import palette
from lfr_jax.experiments.panels import (
    WIDTH,
    add_legend,
    escape_math,
    leave_headroom,
    panel_grid,
    short_name,
    styled,
    use_flops_axis,
    use_perplexity_axis,
)
from lfr_jax.experiments.results import Results
from lfr_jax.experiments.time_axis import (
    Span,
    at_equal_cost,
    flops_spans,
    level_in_scoring,
    mark_spans,
    span_key,
    step_spans,
)
from lfr_jax.experiments.trajectories import CLASSES, ClassCounts


@styled
def draw_timeline(runs: list[Results]) -> Figure:
    """The phases of each run: what share of each domain's blocks a phase draws, and how often."""
    heights = [1.1 + 0.55 * len(run.domains) for run in runs]
    drawing = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    all_axes = drawing.subplots(len(runs), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    rates = [np.array([run.rate_NxP[run.domain_N == d].mean(axis=0) for d in run.domains]) for run in runs]
    highest = max(2.0, *(rate_DxP.max() for rate_DxP in rates))
    longest = max(run.phases[-1].stop for run in runs)
    for axes, run, rate_DxP in zip(all_axes, runs, rates):
        edges = [*(phase.start for phase in run.phases), run.phases[-1].stop]
        mesh = axes.pcolormesh(
            edges, np.arange(len(run.domains) + 1), rate_DxP, cmap=palette.RATES, vmin=0, vmax=1.25 * highest,
            edgecolors=palette.WHITE, linewidth=2,
        )  # fmt: skip
        for column, phase in enumerate(run.phases):
            wide = (phase.stop - phase.start) / longest * 0.78 * WIDTH  # inches
            middle = (phase.start + phase.stop) / 2
            if run.leaves_out_P[column]:
                size = (phase.stop - phase.start, 0.5)
                axes.add_patch(
                    Rectangle((phase.start, -0.5), *size, facecolor=palette.LEAVES_OUT, clip_on=False, zorder=0)
                )
            axes.text(
                middle, -0.08, escape_math(phase.name), ha="center", va="bottom",
                rotation=0 if wide > 0.11 * len(phase.name) else 90,
            )  # fmt: skip
            for row, domain in enumerate(run.domains):
                kept = np.mean(run.rate_NxP[run.domain_N == domain, column] > 0)
                rate = rate_DxP[row, column]
                if wide > 0.5:
                    axes.text(
                        middle, row + 0.5, f"{100 * kept:.0f} %\n×{rate:.2g}", ha="center", va="center",
                        fontsize="small", linespacing=1.1,
                        color=palette.WHITE if rate > 0.7 * highest else "black",
                    )  # fmt: skip
        axes.set_yticks(np.arange(len(run.domains)) + 0.5, [short_name(domain) for domain in run.domains])
        for label, color in zip(axes.get_yticklabels(), palette.domain_colors(run.domains).values()):
            label.set(color=color, fontweight="bold")
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_ylabel(short_name(run.name), fontweight="bold")
        axes.spines[:].set_visible(False)
    all_axes[-1].set_xlabel(
        "steps\nIn a box: the share of the domain's blocks that is drawn, and how often (average block: ×1)"
    )
    drawing.colorbar(mesh, ax=list(all_axes), label="draws of a block\n(average block: 1)", pad=0.01)
    if any(run.leaves_out_P.any() for run in runs):
        add_legend(drawing, span_key(all_spans(runs), "the phase"))
    return drawing


@styled
def draw_sampled_blocks(runs: list[Results], counts: list[ClassCounts], count: int = 50) -> Figure:
    """Perplexity of `count` probes, evenly spaced over all probes, and of all tokens of each domain."""
    chosen = np.argsort(runs[0].domain_N, kind="stable")
    shown_N = np.isin(np.arange(len(chosen)), chosen[evenly_spaced(len(chosen), count)])
    return draw_blocks_by_domain(runs, counts, [shown_N] * len(runs), CLASSES, "A sample of the probes", "probes")


@styled
def draw_forgotten_blocks(runs: list[Results], counts: list[ClassCounts], count: int = 30) -> Figure:
    """Perplexity of probes that rose after they had fallen: at most `count` of each class and domain."""
    kinds = ("forgotten", "relearned", "multiple descent")
    shown = [np.zeros(len(run.block_N), bool) for run in runs]
    for run, found, shown_N in zip(runs, counts, shown):
        for domain in run.domains:
            for name in kinds:
                (of_class,) = np.nonzero((run.domain_N == domain) & (found.class_N == CLASSES.index(name)))
                shown_N[of_class[evenly_spaced(len(of_class), count)]] = True
    return draw_blocks_by_domain(runs, counts, shown, kinds, "Probes that rose after they had fallen", "such probes")


def draw_blocks_by_domain(
    runs: list[Results],
    counts: list[ClassCounts],
    shown: list[np.ndarray],
    kinds: tuple[str, ...],
    heading: str,
    noun: str,
) -> Figure:
    """A panel for each run and domain: perplexities of the blocks `shown`, coloured by class, and the domain's.

    Args:
      shown: bool[N] of each run.
      kinds: the classes that are shown.
      heading: above all panels.
      noun: what the blocks of these classes are called.
    """
    domains = runs[0].domains
    colors = palette.domain_colors(domains)
    drawing, panels = panel_grid(len(runs), len(domains), sharey=True)
    bands = [steps_bands(runs, run) for run in runs]
    for axes, (run, found, shown_N, spans, domain) in zip(
        panels,
        [(*of_run, domain) for of_run in zip(runs, counts, shown, bands) for domain in domains],
        strict=True,
    ):
        here_N = run.domain_N == domain
        for name in kinds:
            drawn_N = here_N & shown_N & (found.class_N == CLASSES.index(name))
            axes.plot(run.step_M, np.exp(run.loss_NxM[drawn_N]).T, color=palette.CLASS_COLORS[name], lw=0.8, alpha=0.8)
        axes.plot(run.step_M, np.exp(run.mean_loss(here_N)), color=colors[domain], lw=3)
        total = np.isin(found.class_N[here_N], [CLASSES.index(name) for name in kinds]).sum()
        of_panel = short_name(f"{run.name}: {domain}")
        axes.set_title(f"{of_panel}\n{shown_N[here_N].sum()} of {total} {noun}", fontsize="medium")
        axes.set_xlabel("steps")
        mark_spans(axes, spans)
        use_perplexity_axis(axes)
    leave_headroom(panels[0], 0.3)
    drawing.suptitle(heading)
    key = [Line2D([], [], color=palette.CLASS_COLORS[name], lw=2, label=name) for name in kinds]
    key += [Line2D([], [], color=colors[domain], lw=3, label=short_name(f"{domain}, all probes")) for domain in domains]
    owner = band_owner(runs)
    key += span_key([span for spans in bands for span in spans], owner.name)
    for run in runs:
        if run is not owner and not run.leaves_out_P.any():
            key.append(Line2D([], [], ls="none", label=escape_math(f"bands in {run.name}: at equal FLOPs")))
    add_legend(drawing, key)
    return drawing


@styled
def draw_chosen_blocks(
    runs: list[Results], owner: Results, chosen_N: np.ndarray, heading: str, lines: dict[str, Any] | None = None
) -> Figure:
    """The perplexity of the probes `chosen_N` under each run, against FLOPs; the bands are phases of `owner`.

    It is the exponential of the mean loss of their tokens.

    Args:
      heading: above all panels.
      lines: the line style of each run; by default by their order.
    """
    lines = lines or palette.policy_lines(run.name for run in runs)
    colors = palette.domain_colors(runs[0].domains)
    groups = {"all": np.ones(len(chosen_N), bool)} | {d: runs[0].domain_N == d for d in runs[0].domains}
    groups = {name: here_N for name, here_N in groups.items() if (here_N & chosen_N).any()}
    drawing, panels = panel_grid(1, len(groups), sharey=True)
    bands = flops_spans(owner.phases, owner.leaves_out_P.tolist(), owner.flops)
    for axes, (name, here_N) in zip(panels, groups.items(), strict=True):
        for run in runs:
            perplexity = np.exp(run.mean_loss(here_N & chosen_N)).tolist()
            spans = flops_spans(run.phases, run.leaves_out_P.tolist(), run.flops)
            curve = level_in_scoring(run.step_M.tolist(), perplexity, run.flops, spans)
            axes.plot(
                curve.x, curve.y, color=colors[name], ls=lines[run.name], lw=2, marker=".", ms=6,
                markevery=curve.measured, label=escape_math(run.name),
            )  # fmt: skip
        of_panel = "all domains" if name == "all" else short_name(name)
        axes.set_title(f"{of_panel}\n{(here_N & chosen_N).sum()} of {here_N.sum()} probes", fontsize="medium")
        mark_spans(axes, bands)
        use_flops_axis(axes)
        use_perplexity_axis(axes)
    leave_headroom(panels[0], 0.3)
    drawing.suptitle(escape_math(heading))
    key = [Line2D([], [], color="black", ls=lines[run.name], lw=2, label=escape_math(run.name)) for run in runs]
    add_legend(drawing, [*key, *span_key(bands, owner.name)])
    return drawing


@styled
def draw_message(text: str) -> Figure:
    """A figure that says why there is no figure."""
    drawing = Figure(figsize=(WIDTH, 0.8))
    drawing.text(0.01, 0.5, escape_math(text), va="center", wrap=True)
    return drawing


def band_owner(runs: list[Results]) -> Results:
    """The run whose phases are marked: the first that leaves blocks out, or else the first."""
    return next((run for run in runs if run.leaves_out_P.any()), runs[0])


def steps_bands(runs: list[Results], run: Results) -> list[Span]:
    """The bands of a panel of `run` over steps.

    A run that never leaves a block out, such as uniform shuffling, has the bands of the run beside it,
    at the steps at which it has spent as much.
    """
    owner = band_owner(runs)
    if run.leaves_out_P.any() or owner is run:
        return step_spans(run.phases, run.leaves_out_P.tolist())
    return at_equal_cost(flops_spans(owner.phases, owner.leaves_out_P.tolist(), owner.flops), run.flops)


def all_spans(runs: list[Results]) -> list[Span]:
    return [span for run in runs for span in step_spans(run.phases, run.leaves_out_P.tolist())]


def evenly_spaced(available: int, count: int) -> np.ndarray:
    """Indices of at most `count` of `available` things, evenly spaced."""
    return np.linspace(0, available - 1, min(count, available)).round().astype(int)
