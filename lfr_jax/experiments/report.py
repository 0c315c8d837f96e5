"""The report of one run or of several: one HTML page, and its figures as PNG and SVG files beside it."""

import pathlib
import textwrap
from html import escape
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lfr_jax.experiments import figures, page, palette
from lfr_jax.experiments.loss_curves import draw_losses
from lfr_jax.experiments.page import ABOUT_FILES, CLASSES_EXPLAINED, class_table, save_figure
from lfr_jax.experiments.results import (
    ProbeSplit,
    Results,
    check_same_probes,
    read_results,
    split_by_phase,
)
from lfr_jax.experiments.trajectories import CLASSES, ClassCounts, count_classes, noise_threshold
from lfr_jax.storage.files import explain_full_disk
from lfr_jax.storage.mirror import local_folder_for
from lfr_jax.storage.paths import Path
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.storage.unfinished import unfinished
from lfr_jax.terminal import printable
from lfr_jax.train import policy


class ProbeAnalysis(NamedTuple):
    """How the losses of single blocks changed in one run, or in two."""

    runs: list[Results]
    counts: list[ClassCounts]
    split: ProbeSplit | None  # the probes that figures 4 and 5 show


def analyse_probes(run_dirs: dict[str, Path], phase: str = "", threshold: float = 0.0) -> ProbeAnalysis:
    """Reads the probes of the first and the last of `run_dirs`, and counts their classes.

    Args:
      run_dirs: name -> run directory.
      phase: figures 4 and 5 show the probes that this phase keeps and leaves out; by default the
        first phase that leaves any out.
      threshold: nats; a smaller move of a block's loss counts as noise. 0: by the noise in the noisier run.

    Raises:
      FileNotFoundError: there is no run.
      ValueError: a run has no probes, or too few measurements of them; the two runs measured
        different blocks; no phase has this name; or the threshold is below 0.
    """
    if threshold < 0:
        raise ValueError(
            f"threshold is {threshold}, expected a number of nats, or 0 to derive it from the noise in the runs"
        )
    ends = dict.fromkeys([next(iter(run_dirs)), next(reversed(run_dirs))])
    runs = [read_results(run_dirs[name], name) for name in ends]
    check_same_probes(runs)
    split = split_by_phase(runs, phase)
    threshold = threshold or max(noise_threshold(run.loss_NxM) for run in runs)
    return ProbeAnalysis(runs, [count_classes(run.loss_NxM, run.domain_N, threshold) for run in runs], split)


def analyse_probes_or_reason(run_dirs: dict[str, Path]) -> ProbeAnalysis | str:
    """The analysis; or, where it is not possible, the reason as text."""
    try:
        return analyse_probes(run_dirs)
    except ValueError as reason:
        return str(reason)


def write_report(folders: list[Path], out: Path, phase: str = "", threshold: float = 0.0) -> str:
    """Writes the report of one run, or of two, to `out`; returns the counts of the classes as text, and its path.

    Raises:
      FileNotFoundError, ValueError: as `analyse_probes`; or one run is named twice.
      FileExistsError: files of other origin would be overwritten.
    """
    page.require_replaceable(out)
    run_dirs = name_runs(folders)
    analysis = analyse_probes(run_dirs, phase, threshold)
    path = write_html(out, run_dirs, table_of_finished(run_dirs), analysis)
    return f"{describe_classes(analysis)}\nreport: {path}"


def write_html(folder: Path, run_dirs: dict[str, Path], table: str, analysis: ProbeAnalysis | str) -> Path:
    """Writes `report.html` and its figures to `folder`, and returns the path of the page.

    Args:
      run_dirs: name -> run directory.
      table: the results of the runs, as text.
      analysis: of the probes; or the reason why there is none.

    Raises:
      FileExistsError: files of other origin would be overwritten.
    """
    page.require_replaceable(folder)
    with explain_full_disk(folder), local_folder_for(folder) as target, unfinished(target / page.FILE) as here:
        here.mkdir()
        losses = save_figure(
            draw_losses(run_dirs),
            here / "losses.png",
            "Training loss, and held-out loss by domain, against all FLOPs spent. A colour is a domain, a line style "
            "is a policy. The bands are phases of the first policy that leaves blocks out. A scoring pass (hatched) "
            "does not change the model, so the loss stays level.",
        )
        if isinstance(analysis, str):
            probes = [f"<p>{escape(analysis)}</p>"]
        else:
            probes = probe_section(here, analysis, palette.policy_lines(map(printable, run_dirs)))
        names = ", ".join(map(printable, run_dirs))
        text = escape(f"{table}\n\n{options_of(run_dirs)}")
        content = [f"<pre>{text}</pre>", ABOUT_FILES, losses, "<h2>Losses of single blocks</h2>", *probes]
        page.write_page(here / page.FILE, names, content)
        page.move_report(here, target)
    return folder / page.FILE


def options_of(run_dirs: dict[str, Path]) -> str:
    """The policy of each run with the options that it was given, a line a run."""
    schedules = {name: RunDir(path).load_config().schedule for name, path in run_dirs.items()}
    return "\n".join(printable(f"{name}: {policy.described(config)}") for name, config in schedules.items())


def probe_section(folder: pathlib.Path, analysis: ProbeAnalysis, lines: dict[str, Any]) -> list[str]:
    """The part of the page on the probes: their classes, and figures 1 to 5 of the paper."""
    runs, counts, split = analysis
    bands = "Grey bands are phases that leave probes out"
    if len(runs) > 1 and any(not run.leaves_out_P.any() for run in runs):
        bands += "; a run that leaves none out has the bands of the other run, where it has spent as many FLOPs"
    drawn = [
        (
            "timeline",
            figures.draw_timeline(runs),
            "1. The phases. Each box shows the share of the domain's probes that the phase draws, and how often it "
            "draws one of the domain's probes, relative to the average block of the corpus (×1).",
        ),
        (
            "sampled",
            figures.draw_sampled_blocks(runs, counts),
            f"2. Perplexity of 50 probes, evenly spaced over all of them; the colour is the class. {bands}.",
        ),
        (
            "forgotten",
            figures.draw_forgotten_blocks(runs, counts),
            "3. Perplexity of the probes that rose after they had fallen, at most 30 of each class and domain. "
            f"{bands}.",
        ),
        ("kept", *draw_split(runs, split, kept=True, lines=lines)),
        ("dropped", *draw_split(runs, split, kept=False, lines=lines)),
    ]
    return [
        *(class_table(run.name, found) for run, found in zip(runs, counts)),
        CLASSES_EXPLAINED.format(threshold=counts[0].threshold),
        *(save_figure(drawing, folder / f"{name}.png", caption) for name, drawing, caption in drawn),
    ]


def draw_split(
    runs: list[Results], split: ProbeSplit | None, kept: bool, lines: dict[str, Any] | None = None
) -> tuple[Figure, str]:
    """Figure 4 (the probes that a phase keeps) or 5 (those that it leaves out, drawn again later), and its caption."""
    number = 4 if kept else 5
    if split is None:
        caption = f"{number}. Nothing to show: no probe was left out."
        return figures.draw_message(caption), caption
    phase = f"the phase {split.phase.name} of {split.run.name}"
    chosen_N = split.kept_N if kept else split.restored_N
    if not chosen_N.any():
        which = f"{phase} kept none" if kept else f"none that {phase} left out was drawn again later"
        caption = f"{number}. Nothing to show: of the probes, {which}."
        return figures.draw_message(caption), caption
    which = f"kept in {phase}" if kept else f"left out in {phase}, and drawn again later"
    heading = f"Probes {'kept' if kept else 'left out'} in {phase}{'' if kept else ', and drawn again later'}"
    return figures.draw_chosen_blocks(runs, split.run, chosen_N, heading, lines), (
        f"{number}. Perplexity of the probes {which}, at equal cost. It is the exponential of the mean loss of their "
        "tokens. "
        f"The bands are the phases of {split.run.name}, grey where they leave probes out. A scoring pass (hatched) "
        "does not change the model, so the curve stays level."
    )


def describe_classes(analysis: ProbeAnalysis) -> str:
    """The classes of all probes, a line a run."""
    lines = []
    for run, found in zip(analysis.runs, analysis.counts):
        size = found.count_GxC[0].sum()
        shares = [
            f"{kind} {100 * count / size:.1f} % ({found.verdict(0, number)})"
            for number, (kind, count) in enumerate(zip(CLASSES, found.count_GxC[0]))
        ]
        lines.append(f"{run.name}: of {size} probes " + ", ".join(shares))
    return "\n".join(lines)


def name_runs(folders: list[Path]) -> dict[str, Path]:
    """The runs by policy; if two have the same policy, by folder."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"{folders[0]} is named twice; name two different runs, or one")
    policies = [RunDir(folder).load_config().schedule.policy for folder in folders]
    for names in (policies, [folder.resolve().name for folder in folders]):
        if len(set(names)) == len(names):
            return dict(zip(names, folders))
    return {str(folder): folder for folder in folders}


def table_of_finished(run_dirs: dict[str, Path]) -> str:
    """The table of the finished runs, and a line for each other run."""
    finished = {name: path for name, path in run_dirs.items() if (path / "summary.json").exists()}
    lines = [f"{name}: not finished" for name in run_dirs if name not in finished]
    if finished:
        lines.insert(0, comparison_table({name: RunDir(path).load_summary() for name, path in finished.items()}))
    return "\n".join(lines)


def comparison_table(summaries: dict[str, dict[str, Any]]) -> str:
    """The comparison as text: a row for each policy, a row for each difference in loss from the first, a legend."""
    domains = list(next(iter(summaries.values()))["held_out_loss"])
    names = list(map(printable, domains))
    head = ["policy", "steps", "trained", "scored", "FLOPs", "seconds", *names]
    rows = [
        [
            name,
            str(s["steps"]),
            f"{s['trained_tokens'] / 1e6:.2f} M",
            f"{s['scored_tokens'] / 1e6:.2f} M",
            f"{s['flops']:.3e}",
            f"{s['seconds']:.0f}",
            *(f"{s['held_out_loss'][domain]:.4f}" for domain in domains),
        ]
        for name, s in summaries.items()
    ]
    first, *others = summaries
    for name in others:
        gaps = (summaries[first]["held_out_loss"][d] - summaries[name]["held_out_loss"][d] for d in domains)
        rows.append([f"{first} − {name}", "", "", "", "", "", *(f"{gap:+.4f}" for gap in gaps)])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))])
        for row in [head, *rows]
    ]
    return "\n".join([*lines, "", *table_legend(first, others, names, width=max(110, *map(len, lines)))])


def table_legend(first: str, others: list[str], domains: list[str], width: int) -> list[str]:
    """What each column of the comparison is, and its unit, in lines of at most `width` characters."""
    sentences = [
        "steps: training steps. trained, scored: tokens in millions (M). FLOPs, seconds: for training and scoring.",
        f"{', '.join(domains)}: held-out loss in nats per token, lower is better.",
    ]
    if others:
        sentences.append(
            f"policy {first} − {others[0]}: the difference of these losses, negative if {first} is better."
        )
    return [line for sentence in sentences for line in textwrap.wrap(sentence, width)]
