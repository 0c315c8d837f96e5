"""The page of an experiment: the question, the primary figure, tables, figures, and how to repeat it."""

import math
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from lfr_jax.experiments import evidence_figures, evidence_tables, page
from lfr_jax.experiments.evidence import ORACLE, Evidence, find
from lfr_jax.experiments.page import ABOUT_FILES, save_figure
from lfr_jax.experiments.plan import BASELINE, Arm, Plan
from lfr_jax.experiments.tables import Table, as_csv, as_html, as_markdown, on_one_line, p_value, with_interval
from lfr_jax.experiments.tuning import HALF, Tuning
from lfr_jax.storage.files import explain_full_disk, write_atomically
from lfr_jax.storage.unfinished import unfinished
from lfr_jax.terminal import printable

FIGURES = ("losses", "multipliers", "domains")  # as PNG and SVG
OTHERS = ("table.md", "cells.csv", "estimates.csv")


class Started(NamedTuple):
    """A plan that was started in the experiment's folder."""

    digest: str
    time: str
    primary: str


class Account(NamedTuple):
    """What is known of an experiment beside its losses."""

    plan_path: str
    out: str
    started: Sequence[Started]  # the first one first
    finished: int  # cells
    total: int  # cells of the plan, as far as they are known
    missing: Sequence[str]  # what is not finished, in words
    failed: Mapping[str, str] = {}  # name of a cell -> message
    tuning: Tuning | None = None
    seconds: float = 0.0  # that the finished cells took, one after the other


def write_page(folder: pathlib.Path, plan: Plan, half: str, found: Evidence | None, account: Account) -> pathlib.Path:
    """Writes the page, its figures, `table.md` and the CSV files to `folder`; returns the path of the page.

    Args:
      half: of the held-out documents, that `found` is of.
      found: None, if no run is finished.

    Raises:
      FileExistsError: files of other origin would be overwritten.
    """
    page.require_replaceable(folder, FIGURES, OTHERS)
    with explain_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished(folder / page.FILE) as here:
            here.mkdir()
            content = [*introduction(plan, half, found, account)]
            if found:
                content += results(here, plan, half, found)
                write_files(here, plan, found)
            content += [*tuned(account.tuning), *what_arms_are(plan), *cells(account), *repeat(account, half, plan)]
            page.write_page(here / page.FILE, printable(pathlib.Path(account.plan_path).stem), content)
            page.move_report(here, folder, FIGURES, OTHERS)
    return folder / page.FILE


def introduction(plan: Plan, half: str, found: Evidence | None, account: Account) -> list[str]:
    """The question, how far the experiment is, its primary figure, and when that was declared."""
    content = [f"<p>{text(plan.question)}</p>"] if plan.question else []
    content += [f"<p>Expected: {text(plan.expected)}</p>"] if plan.expected else []
    if account.finished < account.total or account.missing:
        content.append(caution(f"Not finished: {account.finished} of {account.total} cells. All figures may change."))
    if found and all(len(point.runs) == 1 for point in (*found.baseline, *found.arms)):
        content.append(caution("One seed: no figure has an interval. This is an anecdote, and no evidence."))
    if half != plan.half:
        content.append(
            caution(f"The figures are of the half “{half}” of the held-out documents; the plan says “{plan.half}”.")
        )
    if half == "choose":
        content.append(
            caution(
                "The figures are of the half of the held-out documents that choices are made on. They flatter what was "
                "chosen; report the other half, once."
            )
        )
    lead = f'<p class="lead">{text(primary_in_words(plan, found))}</p>'
    return [*content, lead, *declared(plan, account.started)]


def primary_in_words(plan: Plan, found: Evidence | None) -> str:
    """The primary figure, and how near it is to the ceiling, in sentences."""
    if not plan.primary:
        return "The plan names no primary figure, so none of its figures is a test."
    point = found and find(found.arms, plan.primary, float(plan.arms[plan.primary].budgets[0]))
    estimate = point and point.multiplier()
    if not estimate or not math.isfinite(estimate.value):
        return f"Primary figure, not known yet: the multiplier of {plan.primary}."
    value, interval = with_interval(estimate, ".2f")
    sure = f", 95 % interval {interval}, p {p_in_words(estimate.p)}" if interval else ""
    seeds = f"{estimate.seeds} seeds" if estimate.seeds > 1 else "one seed, an anecdote"
    words = (
        f"Primary figure: the effective-token multiplier of {point.name} is {value}{sure} ({seeds}; charged with "
        f"everything). The {BASELINE} needs {value} times the FLOPs for the same loss."
    )
    if found.oracle and point is not found.oracle and (ceiling := found.oracle.multiplier()):
        share = on_one_line(point.share_of_oracle(), ".2f")
        words += f" The ceiling is that of the {ORACLE}, {on_one_line(ceiling, '.2f')}; the arm has {share} of it."
    return words


def p_in_words(p: float) -> str:
    words = p_value(p)
    return words if words.startswith("<") else f"= {words}"


def declared(plan: Plan, started: Sequence[Started]) -> list[str]:
    """Which plan this is, and whether it is the one that the experiment began with."""
    digests = [each.digest for each in started]
    rows = [(each.time + ", this page" * (each.digest == plan.digest), each.primary, each.digest) for each in started]
    if plan.digest not in digests:
        state = caution("This plan was never started here. The runs below are those that other plans share with it.")
        rows.append(("never, this page", plan.primary, plan.digest))
    elif plan.digest != digests[0]:
        state = caution("The plan was changed after the first run. These were started here:")
    elif len(digests) > 1:
        state = "<p>This plan was written down before the first run. Others were started here after it.</p>"
    else:
        state = "<p>The plan was written down before the first run, and was not changed since.</p>"
    return [state, as_html(Table(("first started", "primary", "sha256 of the plan"), rows), "Plans")]


def results(here: pathlib.Path, plan: Plan, half: str, found: Evidence) -> list[str]:
    """The tables and figures; the figures are saved in the folder."""
    size = f"{len(found.documents.domain_D):,} documents, {found.documents.tokens_D.sum():,} tokens"
    caption = f"Held-out loss in nats per token, half “{half}”: {size}"
    content = [
        "<h2>Results</h2>",
        as_html(evidence_tables.main_table(found, plan.primary), caption),
        TABLE_EXPLAINED,
        *notes(found),
        "<h2>By domain</h2>",
        as_html(evidence_tables.domain_table(found, "token"), "Loss, and difference to the baseline: nats per token"),
    ]
    if "byte" in found.measured_in:
        table = evidence_tables.domain_table(found, "byte")
        content.append(as_html(table, "The same in bits per byte, which do not depend on the tokenizer"))
    drawn = {"losses": evidence_figures.draw_losses}
    if any(point.multiplier() for point in found.arms):
        drawn["multipliers"] = evidence_figures.draw_multipliers
    if any(point.difference() for point in found.arms):
        drawn["domains"] = evidence_figures.draw_domains
    content.append("<h2>Figures</h2>")
    content += [
        save_figure(draw(found, plan.primary), here / f"{name}.png", CAPTIONS[name]) for name, draw in drawn.items()
    ]
    content.append(as_html(evidence_tables.curve_table(found), "The baseline’s curve"))
    return [*content, ABOUT_FILES]


def notes(found: Evidence) -> list[str]:
    """What limits the estimates, as a list."""
    items = [
        f"<li>{text(note)}: {', '.join(map(text, arms))}</li>" for note, arms in evidence_tables.notes(found).items()
    ]
    return ["<ul>", *items, "</ul>"] if items else []


def tuned(tuning: Tuning | None) -> list[str]:
    """The grid on which the baseline was tuned."""
    if tuning is None:
        return []
    caption = f"Loss of the baseline alone, on the half “{HALF}”, mean over its seeds; the best settings go to all arms"
    content = ["<h2>Tuning</h2>", as_html(evidence_tables.tuning_table(tuning), caption)]
    if tuning.at_edge:
        edges = ", ".join(f"{name} = {value}" for name, value in tuning.at_edge.items())
        content.append(caution(f"The best lies on the edge of what was tried: {edges}. Try values beyond it."))
    return content


def what_arms_are(plan: Plan) -> list[str]:
    """What each arm is: its sentence, and in what it differs from the plan's config."""
    arms = {BASELINE: plan.baseline, **plan.arms}
    return [
        "<h2>Arms</h2>",
        "<dl>",
        *(f"<dt>{text(name)}</dt><dd>{describe(arm)}</dd>" for name, arm in arms.items()),
        "</dl>",
    ]


def describe(arm: Arm) -> str:
    differs = {"store": arm.store} if arm.store else {}
    told = {f"{column} from the reference": name for column, name in arm.references.items()}
    words = ", ".join(f"{name} {value}" for name, value in {**differs, **told, **arm.settings}.items())
    return f"{text(arm.about)} <small>{text(words or 'as the plan’s config')}</small>"


def cells(account: Account) -> list[str]:
    """What is missing, and what failed with which message."""
    content = []
    if account.failed:
        rows = [f"<dt>{text(name)}</dt><dd>{text(message)}</dd>" for name, message in account.failed.items()]
        content += ["<h2>Failed</h2>", "<dl>", *rows, "</dl>"]
    if account.missing:
        content += ["<h2>Missing</h2>", "<ul>", *(f"<li>{text(words)}</li>" for words in account.missing), "</ul>"]
    return content


def repeat(account: Account, half: str, plan: Plan) -> list[str]:
    """The commands that make this page again, and what they cost."""
    where = f"{shlex.quote(account.plan_path)} --out {shlex.quote(account.out)}"
    option = f" --half {half}" if half != plan.half else ""
    hours = (
        f"<p>The finished cells took {account.seconds / 3600:.2g} hours, one after the other.</p>"
        if account.seconds
        else ""
    )
    return [
        "<h2>To repeat it</h2>",
        f"<pre>{escape(f'lfr experiment {where}')}\n{escape(f'lfr report {where}{option}')}</pre>",
        f"{hours}<p>Beside this page lie the first table ({OTHERS[0]}), all runs ({OTHERS[1]}) and all estimates "
        f"({OTHERS[2]}).</p>",
    ]


def write_files(here: pathlib.Path, plan: Plan, found: Evidence) -> None:
    """Writes the table as Markdown, and all numbers as CSV."""
    write_atomically(here / "table.md", as_markdown(evidence_tables.main_table(found, plan.primary)))
    write_atomically(here / "cells.csv", as_csv(evidence_tables.cell_rows(found)))
    write_atomically(here / "estimates.csv", as_csv(evidence_tables.estimate_rows(found)))


def text(words: str) -> str:
    """Words as HTML, on one line."""
    return escape(printable(" ".join(words.split())))


def caution(words: str) -> str:
    return f'<p class="caution">{text(words)}</p>'


TABLE_EXPLAINED = """
<p>Means over seeds; in brackets 95 % intervals, over seeds and held-out documents. SD: the standard deviation over
seeds. The <i>difference</i> is paired: runs of one seed begin with the same weights and the same data;
below 0 the arm is better. The <i>multiplier</i> says how many times the FLOPs the baseline needs for the arm’s loss, by
a curve through its own runs; above 1 the arm is better. <i>Charged</i>: with all that the arm needs, such as scoring
passes, reference models and their scores. <i>Amortised</i>: without its reference models, as if they were there anyway.
<i>p (Holm)</i>: of the charged multiplier against 1, corrected for the number of arms. <i>Share of oracle</i>: the
multiplier divided by that of the oracle.</p>
"""
CAPTIONS = {
    "losses": "1. Held-out loss against FLOPs. The curve goes through the baseline at its budgets. A level line leads "
    "from each arm to the curve; on this logarithmic axis, its length from the filled mark is the charged multiplier. "
    "The bar of an arm is the 95 % interval of its difference to the baseline.",
    "multipliers": "2. Effective-token multipliers with 95 % intervals. Right of 1 the arm is better than the "
    "baseline. An arrow: the interval goes on.",
    "domains": "3. Paired differences of held-out loss to the baseline, with 95 % intervals. Left of the line the arm "
    "is better.",
}
