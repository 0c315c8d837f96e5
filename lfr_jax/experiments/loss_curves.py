"""The figure of loss curves: training loss, and held-out loss by domain, of several runs."""

from itertools import groupby
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lfr_jax.experiments import palette
from lfr_jax.experiments.panels import WIDTH, add_legend, escape_math, leave_headroom, styled, use_flops_axis
from lfr_jax.experiments.results import read_complete_steps, read_csv, read_flops
from lfr_jax.experiments.time_axis import Span, flops_spans, level_in_scoring, mark_spans, span_key
from lfr_jax.schedule import Phase
from lfr_jax.storage.paths import Path
from lfr_jax.terminal import printable


@styled
def draw_losses(run_dirs: dict[str, Path]) -> Figure:
    """On the left the training loss, on the right the held-out loss of each domain.

    The bands are the phases of the first run that leaves blocks out; if there is none, of the first run.
    """
    train = {name: read_csv(path / "metrics.csv") for name, path in run_dirs.items()}
    held_out = {name: read_csv(path / "eval.csv") for name, path in run_dirs.items()}
    probed = {row["domain"] for path in run_dirs.values() for row in first_rows(path / "scores" / "probes.csv")}
    measured = {row["domain"] for rows in held_out.values() for row in rows} - {"all"}
    colors, marks = (f(sorted(measured | probed)) for f in (palette.domain_colors, palette.domain_markers))
    lines = palette.policy_lines(run_dirs)
    spans = {name: spans_of_metrics(rows, run_dirs[name]) for name, rows in train.items()}
    leaving = [name for name in spans if any(span.leaves_out for span in spans[name])]
    owner = next(iter([*leaving, *spans]))

    drawing = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for name, rows in train.items():
        # Every run has its own scoring passes, and so its own level pieces.
        flops, steps = read_flops(rows), [int(row["step"]) for row in rows]
        loss = running_mean([float(row["loss"]) for row in rows])
        curve = level_in_scoring(steps, loss, flops, spans[name])
        left.plot(curve.x, curve.y, label=escape_math(name), lw=1.6, color="black", ls=lines[name])
        for domain in (*sorted(measured), "all"):
            points = [(int(row["step"]), float(row["loss"])) for row in held_out[name] if row["domain"] == domain]
            curve = level_in_scoring(*(zip(*points) if points else ((), ())), flops, spans[name])
            right.plot(
                curve.x, curve.y, color=colors[domain], ls=lines[name], lw=2.4 if domain == "all" else 1.6,
                marker=marks[domain], markevery=curve.measured, ms=5, label=escape_math(f"{domain}, {name}"),
            )  # fmt: skip
    left.set(title="training loss (running mean)", ylabel="nats per token")
    right.set(title="held-out loss", ylabel="nats per token")
    for axes in (left, right):
        use_flops_axis(axes)
        leave_headroom(axes)
        mark_spans(axes, spans[owner])
    key = [Line2D([], [], color="black", ls=lines[name], lw=1.6, label=escape_math(name)) for name in run_dirs]
    key += [
        Line2D([], [], color=colors[domain], marker=marks[domain], ms=6, lw=2, label=escape_math(domain))
        for domain in sorted(measured)
    ]
    key.append(Line2D([], [], color=colors["all"], lw=3, label="all domains"))
    add_legend(drawing, [*key, *span_key(spans[owner], owner)])
    return drawing


def spans_of_metrics(rows: list[dict[str, Any]], run_dir: Path) -> list[Span]:
    """The phases of a run on an axis of FLOPs.

    Where the run has no probes, nothing says which phases leave blocks out; there it is those named "focus...".
    """
    phases = []
    for name, of_phase in groupby(rows, key=lambda row: row["phase"]):
        steps = [int(row["step"]) for row in of_phase]
        phases.append(Phase(printable(name), steps[0] - 1, steps[-1]))
    rates = read_complete_steps(run_dir / "scores" / "rates.csv")
    known = {int(of[0]["step"]): any(not float(row["rate"]) > 0 for row in of) for of in rates}
    leaves_out = [known.get(phase.start, phase.name.startswith("focus")) for phase in phases]
    return flops_spans(phases, leaves_out, read_flops(rows))


def first_rows(path: Path) -> list[dict[str, str]]:
    """The rows of the first step in a CSV file; none, if it does not exist."""
    return next(iter(read_complete_steps(path)), [])


def running_mean(values: list[float], share: float = 0.9) -> list[float]:
    """Exponential running mean, corrected for its start."""
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = share * total + (1 - share) * value, share * weight + (1 - share)
        means.append(total / weight)
    return means
