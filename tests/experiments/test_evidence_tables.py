"""The tables of an experiment: each number in its place, and enough beside it to compute it again."""

import csv
import math

import numpy as np
import pytest
from made_evidence import FLOPS, make_baseline, make_documents, make_runs

from lfr_jax.experiments.evidence import gather
from lfr_jax.experiments.evidence_tables import (
    cell_rows,
    curve_table,
    domain_table,
    estimate_rows,
    main_table,
    notes,
    tuning_table,
)
from lfr_jax.experiments.tables import Table, as_csv, as_html, as_markdown
from lfr_jax.experiments.tuning import Tuning

DOCUMENTS = make_documents(("code", "prose"))


@pytest.fixture(scope="module")
def found():
    runs = make_baseline(DOCUMENTS) + make_runs(DOCUMENTS, "lfr", 4.6) + make_runs(DOCUMENTS, "oracle", 4.2)
    runs += make_runs(DOCUMENTS, "reducible", 4.3, references=0.25, seeds=range(3))
    return gather(runs, DOCUMENTS, "micro", [(arm, 1.0) for arm in ("lfr", "reducible", "oracle")])


def columns(table: Table, arm: str) -> dict:
    """The cells of an arm's row by the words of their heads."""
    (row,) = [row for row in table.rows if arm in (row[0], row[0][0])]
    return dict(zip([" ".join([head] if isinstance(head, str) else head) for head in table.head], row, strict=True))


def test_the_first_table_shows_the_estimates(found):
    """Catches: charged and amortised exchanged; the mean of losses for the difference; another arm's row; a standard
    deviation of the population; a row of the baseline at another budget; the primary arm that is not marked."""
    table = main_table(found, "reducible")
    assert [row[0] for row in table.rows] == ["baseline", "lfr", ("reducible", "primary"), "oracle"]
    assert table.marked == [2]
    cells, point = columns(table, "reducible"), found.arms[1]
    charged, amortised, difference = point.multiplier(), point.multiplier("amortised"), point.difference()
    assert amortised.value == pytest.approx(charged.value / 0.75)
    assert cells["multiplier charged"] == (f"{charged.value:.2f}", f"[{charged.low:.2f}, {charged.high:.2f}]")
    assert cells["multiplier amortised"][0] == f"{amortised.value:.2f}"
    assert (
        cells["share of oracle charged"][0] == f"{point.share_of_oracle().value:.2f}" != cells["multiplier charged"][0]
    )
    assert cells["share of oracle amortised"][0] == f"{point.share_of_oracle('amortised').value:.2f}"
    assert cells["difference micro"][0] == f"−{-difference.value:.4f}"
    assert cells["difference micro"][1] == f"[−{-difference.low:.4f}, −{-difference.high:.4f}]"
    loss_S = [run.nll_D.sum() / DOCUMENTS.tokens_D.sum() for run in point.runs]
    assert cells["loss micro"] == (f"{np.mean(loss_S):.4f}", f"SD {np.std(loss_S, ddof=1):.4f}")
    assert cells["loss macro"][0] == f"{point.loss('macro').value:.4f}" != cells["loss micro"][0]
    assert cells["seeds"] == "3" and cells["steps"] == "558" and cells["seconds"] == "42"
    assert cells["trained scored"] == ("1.50 M", "0.40 M")
    assert cells["FLOPs amortised"] == (f"{FLOPS:.3e}", f"{0.75 * FLOPS:.3e}")
    assert cells["p Holm"] == "< 0.001" and columns(table, "oracle")["share of oracle charged"][0] == "–"
    baseline = columns(table, "baseline")
    assert baseline["steps"] == "744" and baseline["multiplier charged"] == ("–", "")


def test_domains_have_their_own_differences(found):
    """Catches: domains exchanged; nats under bits; the difference of all text in each column."""
    point = found.arms[0]
    for per in ("token", "byte"):
        cells = columns(domain_table(found, per), "lfr")
        for of in ("micro", "macro", "code", "prose"):
            difference = point.difference(of, per)
            value, low, high = (
                f"{x:+.4f}".replace("-", "−") for x in (difference.value, difference.low, difference.high)
            )
            loss = f"{point.loss(of, per).value:.4f}"
            assert cells[of if of in ("code", "prose") else f"all, {of}"] == (loss, value, f"[{low}, {high}]")
    assert columns(domain_table(found, "token"), "baseline")["code"] == (f"{found.baseline[2].loss('code').value:.4f}",)


def test_the_curve_says_how_well_it_fits(found):
    """Catches: the distance with the other sign, or of another budget."""
    table = curve_table(found)
    assert [row[0] for row in table.rows] == ["×0.5", "×0.7", "×1", "×1.4", "×2"]
    for row, point in zip(table.rows, found.baseline):
        off = point.loss().value - found.curve.loss(np.array([point.flops()]))[0]
        assert row[1:] == ("5", f"{point.flops():.3e}", f"{point.loss().value:.4f}", f"{off:+.4f}".replace("-", "−"))
    assert {row[4][0] for row in table.rows} == {"+", "−"}


def test_what_the_statistics_note_is_said_once(found):
    """Catches: a limit of the estimates that nobody is told."""
    said = notes(found)
    assert [arms for note, arms in said.items() if note.startswith("3 of 5 seeds")] == [["reducible"]]
    assert not [note for note, arms in said.items() if "lfr" in arms]


def test_the_tables_of_numbers_give_the_estimates_again(found):
    """Catches: a run or an estimate that is left out; a loss of another measure or seed; NaN that spoils a column."""
    runs = list(csv.DictReader(as_csv(cell_rows(found)).splitlines()))
    assert len(runs) == 5 * 5 + 5 + 3 + 5 and len({run["key"] for run in runs}) == len(runs)
    mine = {(run["arm"], run["seed"]): float(run["code (nats per token)"]) for run in runs if float(run["budget"]) == 1}
    estimates = list(csv.DictReader(as_csv(estimate_rows(found)).splitlines()))
    wanted = dict(arm="reducible", budget="1.0", quantity="difference", of="code", unit="nats per token", cost="")
    (estimate,) = [row for row in estimates if wanted.items() <= row.items()]
    by_hand = np.mean([mine["reducible", str(seed)] - mine["baseline", str(seed)] for seed in range(3)])
    assert float(estimate["value"]) == pytest.approx(by_hand) and estimate["seeds"] == "3" and estimate["p_holm"] == ""
    wanted = dict(arm="reducible", quantity="multiplier", of="micro", cost="charged")
    (estimate,) = [row for row in estimates if wanted.items() <= row.items()]
    assert (
        float(estimate["p_holm"]) == found.arms[1].p_holm and float(estimate["low"]) == found.arms[1].multiplier().low
    )
    assert len(estimates) == sum(len(point.estimates) for point in (*found.baseline, *found.arms))
    (run,) = [run for run in runs if (run["arm"], run["seed"]) == ("reducible", "1")]
    assert int(run["flops"]) == 0.75 * FLOPS and int(run["reference_flops"]) == 0.25 * FLOPS


def test_the_best_of_the_grid_is_marked():
    """Catches: the first or the last marked; a mean of which infinity is part as a number; losses of other settings."""
    tried = [
        {"settings": {"optimizer.peak_lr": rate}, "loss_by_seed": losses}
        for rate, losses in [
            (1e-3, {"7": 4.5, "8": 4.7}),
            (2e-3, {"7": 4.0, "8": 4.3}),
            (4e-3, {"7": math.inf, "8": 4.1}),
        ]
    ]
    table = tuning_table(Tuning({"optimizer.peak_lr": 2e-3}, tried, {}))
    assert table.marked == [1] and table.head == ("optimizer.peak_lr", "seeds", "loss")
    assert table.rows == [("0.001", "2", "4.6000"), ("0.002", "2", "4.1500"), ("0.004", "2", "diverged")]


HOSTILE = "<script>alert(1)</script>|*x*`\n\x1b[31m"


def test_names_are_no_marks():
    """Catches: a name that is read as HTML, as Markdown, ends a cell or a row, or reaches a terminal as a command."""
    table = Table(["arm", ("loss", HOSTILE)], [[HOSTILE, ("1", HOSTILE)]], [0])
    html, markdown = as_html(table, HOSTILE), as_markdown(table)
    assert html.count("&lt;script&gt;") == 4 and "<script" not in html and "\x1b" not in html + markdown
    assert "<tr class=differs><th>" in html
    assert len(markdown.splitlines()) == 3 and "<" not in markdown
    assert markdown.count(r"\|\*x\*\`") == 3 and all(line.count(" | ") == 1 for line in markdown.splitlines()[::2])
