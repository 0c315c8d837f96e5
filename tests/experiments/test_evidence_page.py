"""The page of an experiment: what a sceptical reader is told, and that names are never read as HTML."""

import html.parser
import pathlib

import pytest
from made_evidence import make_baseline, make_documents, make_plan, make_runs

from lfr_jax.experiments import evidence_page, page
from lfr_jax.experiments.evidence import gather
from lfr_jax.experiments.evidence_page import Account, Started, primary_in_words, write_page
from lfr_jax.experiments.tuning import Tuning

HOSTILE = "<script>alert(1)</script>"
DOCUMENTS = make_documents(("code", HOSTILE))
PLAN = make_plan(("lfr", "oracle"))
FILES = {*(f"{name}.{kind}" for name in evidence_page.FIGURES for kind in ("png", "svg")), *evidence_page.OTHERS}


class Words(html.parser.HTMLParser):
    """What a reader of the page sees, and its tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [""], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += [data] * (self.tags[-1] != "style")


def gathered(seeds=range(5), arms=("lfr", "oracle")):
    runs = make_baseline(DOCUMENTS, seeds=seeds)
    for name in arms:
        runs += make_runs(DOCUMENTS, name, {"lfr": 4.3, "oracle": 3.9}[name], seeds=seeds)
    return gather(runs, DOCUMENTS, "micro", [("lfr", 1.0), ("oracle", 1.0)])


def account(**changes):
    of_all = dict(
        plan_path="plans/junk 50.py",
        out="runs/junk",
        started=[Started(PLAN.digest, "2026-01-02T03:04:05+00:00", "lfr")],
        finished=60,
        total=60,
        missing=[],
        seconds=5400.0,
    )
    return Account(**of_all | changes)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a page without its figures, which cost seconds, and gives what it says."""

    def save(drawing, path, caption):
        path.touch(), path.with_suffix(".svg").touch()
        return f"<figure>{path.stem}</figure>"

    def write(found, plan=PLAN, half="report", **changes):
        path = write_page(tmp_path / "report", plan, half, found, account(**changes))
        return Words(path.read_text(encoding="utf-8"))

    monkeypatch.setattr(evidence_page, "save_figure", save)
    return write


@pytest.mark.slow
def test_a_whole_page(tmp_path):
    """Catches: a picture that is linked or missing; a part of the page that is gone; a file beside it that is not
    written; a domain's name read as HTML."""
    found = gathered()
    path = write_page(tmp_path / "report", PLAN, "report", found, account())
    seen = Words(path.read_text(encoding="utf-8"))
    assert seen.tags.count("img") == 3 and "script" not in seen.tags and HOSTILE in seen.text
    assert {file.name for file in path.parent.iterdir()} == FILES | {page.FILE}
    multiplier = found.arms[0].multiplier()
    in_order = [
        "Report: junk 50", "Does it help?", "Expected: Theory says no.", f"of lfr is {multiplier.value:.2f}, 95 %",
        f"[{multiplier.low:.2f}, {multiplier.high:.2f}], p < 0.001 (5 seeds", "before the first run, and was not",
        "2026-01-02T03:04:05+00:00, this page", PLAN.digest, "half “report”: 24 documents", "p (Holm)", "By domain",
        "bits per byte", "1. Held-out loss against FLOPs", "2. Effective", "3. Paired", "The baseline’s curve", "Arms",
        "what lfr does", "store clean", "lfr experiment 'plans/junk 50.py' --out runs/junk",
        "lfr report 'plans/junk 50.py' --out runs/junk", "1.5 hours",
    ]  # fmt: skip
    places = [seen.text.find(words) for words in in_order]
    assert -1 not in places and places == sorted(places), list(zip(places, in_order))
    assert "Not finished" not in seen.text and "anecdote" not in seen.text and "--half" not in seen.text
    table = (path.parent / "table.md").read_text()
    assert table.startswith("| arm | seeds | multiplier charged |") and f"{multiplier.value:.2f} \\[" in table


def test_an_unfinished_experiment_says_so(written):
    """Catches: figures that pass for final; a failure or a missing cell that is not named; no page before the first
    run; an arm that is not known yet called a null."""
    failed = {f"lfr/1x/seed{HOSTILE}": "the disk\nis full"}
    seen = written(gathered(arms=["oracle"]), finished=12, missing=["lfr/1x/seed0"], failed=failed)
    for words in ("Not finished: 12 of 60 cells", "Missing lfr/1x/seed0", "the disk is full", f"seed{HOSTILE}"):
        assert words in seen.text
    assert "Primary figure, not known yet: the multiplier of lfr." in seen.text and "script" not in seen.tags
    nothing = written(None, finished=0, missing=["lfr"])
    assert "Not finished: 0 of 60 cells" in nothing.text and "Results" not in nothing.text
    only_failed = written(None, finished=59, failed=failed)
    assert "Not finished: 59 of 60 cells" in only_failed.text


def test_one_seed_is_an_anecdote(written):
    """Catches: a single pair that looks like evidence."""
    seen = written(gathered(seeds=[3]))
    assert (
        "One seed: no figure has an interval. This is an anecdote" in seen.text
        and "(one seed, an anecdote" in seen.text
    )
    assert "95 % interval [" not in seen.text and "nan" not in seen.text.lower().split()


@pytest.mark.parametrize(
    "half, of_plan, expected",
    [
        ("report", "report", []),
        (
            "choose",
            "report",
            ["half “choose” of the held-out documents; the plan says “report”", "that choices are made on"],
        ),
        ("choose", "choose", ["that choices are made on"]),
        ("all", "report", ["half “all” of the held-out documents; the plan says “report”"]),
    ],
)
def test_the_half_is_told(written, half, of_plan, expected):
    """Catches: figures of the half that was chosen on without a word; another half than was declared."""
    plan = make_plan(("lfr", "oracle"), half=of_plan)
    seen = written(gathered(), plan, half, started=[Started(plan.digest, "today", "lfr")])
    cautions = ["the plan says", "that choices are made on"]
    assert all(words in seen.text for words in expected)
    assert sum(words in seen.text for words in cautions) == len(expected)
    assert (f"--half {half}" in seen.text) == (half != of_plan)


@pytest.mark.parametrize(
    "digests, expected",
    [
        ([PLAN.digest], "and was not changed since"),
        ([PLAN.digest, "other"], "before the first run. Others were started here after it"),
        (["other", PLAN.digest], "was changed after the first run"),
        (["other"], "was never started here"),
        ([], "was never started here"),
    ],
)
def test_a_changed_plan_is_told(written, digests, expected):
    """Catches: a primary arm that was chosen after the results, and looks declared; a hash that is not shown."""
    seen = written(gathered(), started=[Started(digest, f"day {n}", f"arm{n}") for n, digest in enumerate(digests)])
    assert expected in seen.text and all(digest in seen.text for digest in [*digests, PLAN.digest])
    every = ("not changed since", "Others were started", "was changed after", "never started")
    assert sum(words in seen.text for words in every) == 1
    assert all(f"arm{number}" in seen.text for number in range(len(digests)))


def test_the_primary_figure_in_words():
    """Catches: the oracle's multiplier for the arm's; a figure without its seeds; the arm's share of itself."""
    found = gathered()
    lfr, oracle = (point.multiplier() for point in found.arms)
    words = primary_in_words(PLAN, found)
    assert f"of lfr is {lfr.value:.2f}, 95 % interval" in words and "(5 seeds; charged with everything)" in words
    share = found.arms[0].share_of_oracle()
    assert f"that of the oracle, {oracle.value:.2f} [" in words and f"has {share.value:.2f} [" in words
    assert "the arm has" not in primary_in_words(make_plan(("oracle", "lfr"), primary="oracle"), found)
    assert "names no primary figure" in primary_in_words(make_plan(("lfr",), primary=""), found)


def test_the_edge_of_the_grid_is_told(written):
    """Catches: a baseline that was tuned badly, and no word of it."""
    tried = [{"settings": {"optimizer.peak_lr": rate}, "loss_by_seed": {"7": 4 + rate}} for rate in (1e-3, 2e-3)]
    best = {"optimizer.peak_lr": 1e-3}
    seen = written(None, tuning=Tuning(best, tried, best))
    assert "The best lies on the edge of what was tried: optimizer.peak_lr = 0.001" in seen.text
    assert "on the edge" not in written(None, tuning=Tuning(best, tried, {})).text


def test_an_earlier_report_is_replaced_wholly(written, tmp_path):
    """Catches: a figure of an earlier report that stays beside a page that has none; somebody's file overwritten; a
    file of theirs removed."""
    written(gathered())
    folder = tmp_path / "report"
    (folder / "notes.txt").write_text("of mine")
    assert {path.name for path in folder.iterdir()} == FILES | {page.FILE, "notes.txt"}
    written(None)
    assert {path.name for path in folder.iterdir()} == {page.FILE, "notes.txt"}
    (folder / page.FILE).unlink()
    (folder / "cells.csv").write_text("of mine")
    with pytest.raises(FileExistsError, match="found 'cells.csv', and no report"):
        written(None)
    assert pathlib.Path(folder / "cells.csv").read_text() == "of mine"
