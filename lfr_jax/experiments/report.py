"""The report of one run, or of several: a self-contained HTML page, with its figures also as PNG files beside it."""

import pathlib
from html import escape
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lfr_jax.experiments import figures
from lfr_jax.experiments.page import CLASSES_EXPLAINED, class_table, picture, write_page
from lfr_jax.experiments.results import Results, Split, printable, read_results, same_probes, split
from lfr_jax.experiments.trajectories import CLASSES, Census, census, noise_threshold
from lfr_jax.storage.mirror import local_folder_for
from lfr_jax.storage.paths import Path
from lfr_jax.storage.run_dir import RunDir


class Became(NamedTuple):
    """What became of the blocks of one run, or of two."""

    runs: list[Results]
    censuses: list[Census]
    divided: Split | None  # the blocks that figures 4 and 5 follow


def what_became(run_dirs: dict[str, Path], phase: str = "", threshold: float = 0.0) -> Became:
    """What the probes of the first and the last of `run_dirs` show.

    Args:
      run_dirs: name -> run directory.
      phase: whose choice of blocks is followed; by default the first that leaves any out.
      threshold: nats; a smaller move of a block's loss counts as noise. 0: by the noise in the noisier run.

    Raises:
      FileNotFoundError: no run is there.
      ValueError: a run has no probes, or too few measurements of them; the two measured other
        blocks; there is no such phase; or the threshold is below 0.
    """
    if threshold < 0:
        raise ValueError(f"threshold is {threshold}, expected a number of nats, or 0 to go by the noise in the runs")
    ends = dict.fromkeys([next(iter(run_dirs)), next(reversed(run_dirs))])
    runs = [read_results(run_dirs[name], name) for name in ends]
    same_probes(runs)
    divided = split(runs, phase)
    threshold = threshold or max(noise_threshold(run.loss_NxM) for run in runs)
    return Became(runs, [census(run.loss_NxM, run.domain_N, threshold) for run in runs], divided)


def became_or_why(run_dirs: dict[str, Path]) -> Became | str:
    """What became of the blocks; or, where that cannot be told, why."""
    try:
        return what_became(run_dirs)
    except ValueError as why:
        return str(why)


def write(folder: Path, run_dirs: dict[str, Path], table: str, became: Became | str) -> Path:
    """Writes `report.html` and its figures to `folder`, and returns the path of the page.

    Args:
      run_dirs: name -> run directory.
      table: the runs' results, as text.
      became: of their blocks.
    """
    with local_folder_for(folder) as here:
        losses = picture(
            figures.losses(run_dirs),
            here / "losses.png",
            "Training loss, with the phases of the first run, and held-out loss by domain, against all that was spent.",
        )
        blocks = [f"<p>{escape(became)}</p>"] if isinstance(became, str) else of_blocks(here, became)
        title = "Report: " + ", ".join(map(printable, run_dirs))
        content = [f"<pre>{escape(table)}</pre>", losses, "<h2>What became of the blocks</h2>", *blocks]
        write_page(here / "report.html", title, content)
    return folder / "report.html"


def of_blocks(folder: pathlib.Path, became: Became) -> list[str]:
    """The part of the page on the probes: their classes, and the paper's figures 1 to 5."""
    runs, censuses, divided = became
    drawn = [
        (
            "timeline",
            figures.timeline(runs),
            "1. The phases. In each box: the share of the domain's probes that the phase draws at all, and how often "
            "one of them is drawn, relative to the average block of the corpus (×1).",
        ),
        (
            "sampled",
            figures.sampled(runs, censuses),
            "2. Perplexity of 50 probes, evenly spaced over all of them, in the colours of their classes.",
        ),
        (
            "forgotten",
            figures.forgotten(runs, censuses),
            "3. Perplexity of the probes that rose after they had fallen, at most 30 of each class and domain.",
        ),
        ("kept", *followed(runs, divided, kept=True)),
        ("dropped", *followed(runs, divided, kept=False)),
    ]
    return [
        *(class_table(run.name, found) for run, found in zip(runs, censuses)),
        CLASSES_EXPLAINED.format(threshold=censuses[0].threshold),
        *(picture(drawing, folder / f"{name}.png", caption) for name, drawing, caption in drawn),
    ]


def followed(runs: list[Results], divided: Split | None, kept: bool) -> tuple[Figure, str]:
    """Figure 4 (of the blocks kept) or 5 (of those dropped and restored), and its caption."""
    number = 4 if kept else 5
    if divided is None:
        caption = f"{number}. Nothing to follow: no probe was left out."
        return figures.words(caption), caption
    phase = f"the phase {divided.phase.name} of {divided.run.name}"
    chosen_N = divided.kept_N if kept else divided.restored_N
    if not chosen_N.any():
        which = f"{phase} kept none" if kept else f"none that {phase} left out was drawn again later"
        caption = f"{number}. Nothing to follow: of the probes, {which}."
        return figures.words(caption), caption
    which = f"kept in {phase}" if kept else f"left out in {phase}, and drawn again later"
    return figures.means(runs, divided.run, chosen_N), (
        f"{number}. Perplexity of the probes {which}, at equal cost. It is the exponential of the mean loss of their "
        "tokens, and no mean of perplexities. The phases are those of "
        f"{divided.run.name}, in grey where they leave probes out. Where one begins with a scoring pass, two points "
        "lie apart by what the pass cost."
    )


def in_words(became: Became) -> str:
    """The classes of all probes, a line a run."""
    lines = []
    for run, found in zip(became.runs, became.censuses):
        size = found.count_GxC[0].sum()
        shares = [
            f"{kind} {100 * count / size:.1f} % ({found.verdict(0, number)})"
            for number, (kind, count) in enumerate(zip(CLASSES, found.count_GxC[0]))
        ]
        lines.append(f"{run.name}: of {size} probes " + ", ".join(shares))
    return "\n".join(lines)


def report(folders: list[Path], out: Path, phase: str = "", threshold: float = 0.0) -> str:
    """Writes the report of one run, or of two, to `out`; returns what it found in words, and where it is.

    Raises:
      FileNotFoundError, ValueError: of `what_became`; or the same run is named twice.
    """
    run_dirs = named(folders)
    became = what_became(run_dirs, phase, threshold)
    path = write(out, run_dirs, results_so_far(run_dirs), became)
    return f"{in_words(became)}\nreport: {path}"


def named(folders: list[Path]) -> dict[str, Path]:
    """The runs by policy; by folder, where their policies are the same."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"{folders[0]} is named twice; name two runs, or one")
    policies = [RunDir(folder).load_config().schedule.policy for folder in folders]
    for names in (policies, [folder.resolve().name for folder in folders]):
        if len(set(names)) == len(names):
            return dict(zip(names, folders))
    return {str(folder): folder for folder in folders}


def results_so_far(run_dirs: dict[str, Path]) -> str:
    """The table of the finished runs, and a line on every other."""
    finished = {name: path for name, path in run_dirs.items() if (path / "summary.json").exists()}
    lines = [f"{name}: not finished" for name in run_dirs if name not in finished]
    if finished:
        lines.insert(0, table({name: RunDir(path).load_summary() for name, path in finished.items()}))
    return "\n".join(lines)


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """The comparison as text: a row a policy, then each one's difference in loss from the first."""
    domains = list(next(iter(summaries.values()))["held_out_loss"])
    head = ["policy", "steps", "trained", "scored", "FLOPs", "seconds", *map(printable, domains)]
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
    note = (
        "trained, scored: tokens. seconds: training and scoring, without compiling and evaluating.\n"
        "The columns after it: held-out loss by domain, nats per token (lower is better)."
    )
    return "\n".join([*lines, "", note])
