"""The report of an experiment is read off its folder. The folder is made up: nothing is trained."""

import csv
import json

import numpy as np
import plans
import pytest
from conftest import once

from lfr_jax.data.document_loss_files import COLUMNS
from lfr_jax.experiments import evidence_page, evidence_report
from lfr_jax.experiments.cells import DONE, FAILED, write_record
from lfr_jax.experiments.experiment import record_plan
from lfr_jax.experiments.layout import laid_out

DOMAINS = ("code", "micro", "prose")
SECONDS = {"train": 10.0, "scores": 2.0}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return once(tmp_path_factory, "experiment_stores", lambda folder: folder.mkdir() or plans.make_stores(folder))


@pytest.fixture(scope="module")
def plan(stores):
    return plans.plan(stores, primary="reducible", half="report", seeds=(0, 1, 2))


def losses_of(name: str, documents: int = 24) -> list[tuple]:
    """Rows of `held_out.csv`: half of the documents to choose by, one of them with nothing measured."""
    random = np.random.default_rng([*name.encode()])
    arm, budget, seed = name.split("/")
    loss = {"baseline": 4.0, "reducible": 3.8, "oracle": 3.5}[arm] - np.log2(float(budget.rstrip("x")))
    rows = []
    for number in range(documents):
        half, tokens = ("choose", "report")[number % 2], 0 if number == 1 else 40 + number
        mean = loss + 0.1 * (number % 5) + (half == "choose") + random.normal(0, 0.02)
        rows.append((number, DOMAINS[number % 3], half, tokens, 4 * tokens, mean * tokens))
    return rows


def write_losses(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        file.write(f"# documents {len(rows)} store abc seq_len 32 step 16 left_out 0\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def make_folder(plan, out, unfinished=(), failed={}, diverged=()):
    """An experiment of which all is finished but the cells of these names."""
    record_plan(plan, out)
    for cell in laid_out(plan, out).cells:
        if cell.kind in SECONDS and cell.name not in (*unfinished, *failed):
            cell.folder(out).mkdir(parents=True)
            found = {"seconds": SECONDS[cell.kind], "flops": float(cell.flops)}
            if cell.name in diverged:
                found["diverged"] = "the loss is nan"
            elif cell.kind == "train":
                steps = cell.config.train.steps
                counted = dict(steps=steps, trained_tokens=steps * 256, scored_tokens=0, flops=cell.flops, seconds=9.0)
                found["summary"] = counted
                if cell.content["measured"]:
                    write_losses(cell.held_out(out), losses_of(cell.name))
            write_record(cell, out, DONE, **found)
        if cell.name in failed:
            cell.folder(out).mkdir(parents=True)
            write_record(cell, out, FAILED, error=failed[cell.name])
    return out


@pytest.fixture
def reported(plan, tmp_path, monkeypatch):
    """The report of a folder, as (what is printed, what is on the page, what was estimated)."""
    found = []

    def remember(folder, plan, half, evidence, account):
        found.append((evidence, account))
        return write(folder, plan, half, evidence, account)

    write = evidence_report.write_page
    monkeypatch.setattr(evidence_report, "load_plan", lambda path: plan)
    monkeypatch.setattr(evidence_report, "write_page", remember)
    monkeypatch.setattr(evidence_page, "save_figure", lambda drawing, path, caption: f"<figure>{path.stem}</figure>")

    def report(half="", **options):
        out = make_folder(plan, tmp_path / "out", **options) if not (tmp_path / "out").exists() else tmp_path / "out"
        said = evidence_report.write_report("plan.py", out, half)
        return said, (out / "report" / "report.html").read_text(encoding="utf-8"), *found[-1]

    return report


def test_a_finished_experiment(plan, reported, tmp_path):
    """Catches: documents of the other half, or of which nothing was measured; the time or the cost of a reference that
    is lost; a domain that takes the name of a measure; a page elsewhere; a plan that seems changed."""
    said, page, found, account = reported()
    assert said.splitlines()[1] == f"report: {tmp_path / 'out' / 'report' / 'report.html'}"
    assert said.startswith("Primary figure: the effective-token multiplier of reducible is ") and "(3 seeds" in said
    assert "and was not changed since" in page and plan.digest in page and account.finished == account.total
    assert len(found.documents.tokens_D) == 11 and found.domains == ["code", "micro (domain)", "prose"]
    assert [point.name for point in found.arms] == ["oracle", "reducible"]
    assert [point.budget for point in found.baseline] == [0.5, 1.0]
    reducible = found.arms[1]
    rows = [row for row in losses_of("reducible/1x/seed1") if row[2] == "report" and row[3]]
    np.testing.assert_allclose(reducible.runs[1].nll_D, [row[5] for row in rows], rtol=1e-12)
    planned = laid_out(plan, tmp_path / "out").runs["reducible", 1.0, 0]
    assert reducible.runs[0].reference_flops == sum(cell.flops for cell in planned.references) > 0
    assert reducible.mean("seconds") == 9.0 + 9.0 + 2.0 and found.arms[0].mean("seconds") == 9.0
    kinds = [cell.kind for cell in laid_out(plan, tmp_path / "out").cells if cell.kind in SECONDS]
    assert account.seconds == sum(map(SECONDS.get, kinds))
    _, page, other, _ = reported("choose")
    assert len(other.documents.tokens_D) == 12 and "the plan says" in page
    assert len(reported("all")[2].documents.tokens_D) == 23


def test_an_unfinished_experiment(reported):
    """Catches: a report that waits for the last cell; a failure that is not shown; a seed that diverged, and is left
    out as if it were missing."""
    names = [f"{arm}/1x/seed{seed}" for arm in ("oracle", "reducible") for seed in range(3)]
    unfinished, failed = names[:2], {names[2]: "the disk is full"}
    _, page, found, account = reported(unfinished=unfinished, failed=failed, diverged=[names[4]])
    assert f"Not finished: {account.total - 3} of {account.total} cells" in page
    assert "the disk is full" in page and account.missing == unfinished and "the loss is nan" in page
    (reducible,) = found.arms
    assert [np.isfinite(run.nll_D).all() for run in reducible.runs] == [True, False, True]
    assert np.isnan(reducible.multiplier().value) and "a run has diverged" in page


def test_before_the_first_run(reported, plan, tmp_path):
    """Catches: a traceback where nothing is finished; a folder that is no experiment taken for one without runs."""
    with pytest.raises(FileNotFoundError, match=r"no experiment in .*nothing; run `lfr experiment plan.py --out"):
        evidence_report.write_report("plan.py", tmp_path / "nothing")
    names = [cell.name for cell in laid_out(plan, tmp_path / "out").cells]
    (tmp_path / "out" / "cells").mkdir(parents=True)
    said, page, found, _ = reported(unfinished=names)
    assert found is None and "not known yet" in said and "Not finished: " in page


def test_losses_of_other_documents_are_refused(reported, plan, tmp_path):
    """Catches: losses of a store that was made again, subtracted from those of the earlier one."""
    reported()
    path = laid_out(plan, tmp_path / "out").runs["oracle", 1.0, 1].run.held_out(tmp_path / "out")
    write_losses(path, [(*row[:3], row[3] + 1, *row[4:]) for row in losses_of("oracle/1x/seed1")])
    with pytest.raises(
        ValueError, match="found losses of other documents than those of the first run, expected the same"
    ):
        reported()


def test_plans_that_were_started_are_read(plan, tmp_path):
    """Catches: plans in another order; the primary arm of another plan; a plan whose file is gone, as a traceback."""
    assert evidence_report.started(tmp_path) == []
    record_plan(plan, tmp_path)
    (tmp_path / "plans" / "gone.json").write_text(json.dumps({"primary": "x"}))
    with open(tmp_path / "plans.csv", "a") as file:
        file.write("gone,2026-01-01T00:00:00+00:00\nlost,2026-01-02T00:00:00+00:00\n")
    found = evidence_report.started(tmp_path)
    assert [(each.digest, each.primary) for each in found] == [(plan.digest, "reducible"), ("gone", "x"), ("lost", "")]
    assert found[1].time == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    "words, error",
    [
        (
            ["plan.py", "runs/b", "--out", "x"],
            "found other 'runs/b', which is of a run, and no option of an experiment",
        ),
        (["plan.py", "--phase", "focus", "--out", "x"], "found phase 'focus', which is of a run"),
        (["plan.py", "--threshold", "0.5", "--out", "x"], "found threshold 0.5, which is of a run"),
        (["plan.py"], "found no --out, expected the folder of the experiment: lfr report plan.py --out DIR"),
        (["runs/a", "--half", "all"], "found half 'all', which is of an experiment, and no option of a run"),
        (["plan.py", "--out", "gs://bucket/x"], "found gs://bucket/x, expected a path on this machine"),
    ],
)
def test_arguments_of_the_other_use_are_refused(lfr, words, error):
    """Catches: an option that is taken and has no effect."""
    code, _, err = lfr("report", *words)
    assert code == 1 and error in err


def test_a_half_that_is_none(reported):
    """Catches: a page of no documents."""
    with pytest.raises(ValueError, match="half is 'chose'; did you mean 'choose'"):
        reported("chose")
