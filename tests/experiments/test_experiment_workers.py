"""How cells are shared out: with makers that write a word in place of training."""

import dataclasses
import pathlib

import numpy as np
import plans
import pytest
from conftest import once

from lfr_jax.data import document_loss_files
from lfr_jax.data.document_loss_files import DocumentLosses
from lfr_jax.experiments import experiment, make_cell
from lfr_jax.experiments.cell_results import found_in
from lfr_jax.experiments.cells import FAILED, read_record, taken
from lfr_jax.experiments.layout import laid_out
from lfr_jax.experiments.plan import Arm, Store
from lfr_jax.experiments.workers import attempt, cores_of, make_cells
from lfr_jax.train.track.metrics import csv_line


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return once(tmp_path_factory, "experiment_stores", lambda folder: folder.mkdir() or plans.make_stores(folder))


SUMMARY = {"steps": 1, "trained_tokens": 2, "scored_tokens": 3, "flops": 4, "seconds": 5.0}


@pytest.fixture
def fake(monkeypatch):
    """No run is trained. Returns what decides the losses of a run: by default 2.0 in each half, of 10 tokens."""
    chosen = {"loss": lambda cell: (2.0, 2.0)}

    def run(cell, out, lock):
        choose, report = chosen["loss"](cell)
        domain, half, tokens = np.array(["a", "b"]), np.array(["choose", "report"]), np.array([10, 10])
        losses = DocumentLosses(domain, half, tokens, tokens, 10 * np.array([choose, report]), 0)
        with open(cell.held_out(out), "w") as file:
            file.write("# documents 2 store f seq_len 32 step 1 left_out 0\n")
            file.writelines(map(csv_line, document_loss_files.rows(losses)))
        return {"summary": SUMMARY}

    def scores(cell, out, lock):
        cell.result(out).write_text("scores")
        return {}

    monkeypatch.setitem(make_cell.MAKERS, "train", run)
    monkeypatch.setitem(make_cell.MAKERS, "scores", scores)
    return chosen


def events_of(plan, out, command="first"):
    events = []
    make_cells(plan, out, command, events.append)
    return events


def names(events, kind) -> list[str]:
    return [event.cell.name for event in events if event.kind == kind]


def test_a_cell_that_fails_does_not_stop_the_others(stores, tmp_path, monkeypatch, fake):
    """Catches: an experiment that ends with its first failure; a cell that is made though what it needs has failed; a
    failure that is tried again and again, or never again; one whose reason is lost."""

    def failing(cell, out, lock):
        raise OSError("no room")

    works = make_cell.MAKERS["scores"]
    monkeypatch.setitem(make_cell.MAKERS, "scores", failing)
    plan = plans.plan(stores)
    events = events_of(plan, tmp_path)
    failed = ["scores/small/seed0/junk", "scores/small/seed1/junk"]
    assert names(events, "failed") == failed and {event.text for event in events if event.text} == {"no room"}
    assert len(names(events, "finished")) == 8 and not [n for n in names(events, "began") if n.startswith("reducible")]
    assert found_in(plan, tmp_path).missing == (
        "reducible/1x/seed0 is not finished",
        "reducible/1x/seed1 is not finished",
    )
    assert "failed: no room" in experiment.dry_run(plan, tmp_path)
    assert names(events_of(plan, tmp_path, "second"), "failed") == failed
    assert not names(events_of(plan, tmp_path, "first"), "began")  # also when another command has tried meanwhile
    monkeypatch.setitem(make_cell.MAKERS, "scores", works)
    assert len(names(events_of(plan, tmp_path, "third"), "finished")) == 4
    scores = next(cell for cell in laid_out(plan, tmp_path).cells if cell.kind == "scores")
    assert not read_record(scores, tmp_path, FAILED) and not found_in(plan, tmp_path).missing


def test_what_needs_a_run_that_diverged_has_diverged(stores, tmp_path, monkeypatch, fake):
    """Catches: scores of a reference that are tried, and fail, by every command; a run of an arm that then counts as
    missing for ever, and not as diverged; other arms that suffer from it."""
    run = make_cell.MAKERS["train"]
    wild = lambda cell, *args: {"diverged": "the loss is nan"} if "small" in cell.name else run(cell, *args)  # noqa: E731
    monkeypatch.setitem(make_cell.MAKERS, "train", wild)
    plan = plans.plan(stores, seeds=(0,))
    events = events_of(plan, tmp_path)
    assert not names(events, "failed") and len(names(events, "finished")) == len(laid_out(plan, tmp_path).cells)
    because = "scores/small/seed0/junk: reference/small/seed0: the loss is nan"
    assert found_in(plan, tmp_path).missing == (f"reducible/1x/seed0 diverged: {because}",)


def test_a_cell_that_another_process_makes_is_left_to_it(stores, tmp_path, fake):
    """Catches: a lock that is not asked for; a cell made again that was finished while one waited for the lock."""
    cell = next(cell for cell in laid_out(plans.plan(stores), tmp_path).cells if cell.kind == "train")
    events = []
    with taken(cell, tmp_path) as lock:
        assert lock is not None
        assert not attempt(cell, tmp_path, "first", events.append)
    assert attempt(cell, tmp_path, "first", events.append) and len(events) == 2
    assert not attempt(cell, tmp_path, "first", events.append) and len(events) == 2


def test_the_grid_is_decided_first_on_the_baseline_alone(stores, tmp_path, fake, capsys):
    """The half "report" says the opposite. Catches: a grid decided on the half that is reported, or by the worst; arms
    or references that are trained before, or without it; an edge that nobody hears of."""
    rates = {1e-3: (3.0, 1.0), 2e-3: (2.0, 2.0), 4e-3: (2.5, 0.5)}
    fake["loss"] = lambda cell: rates.get(cell.config.optimizer.peak_lr, (2.0, 2.0))
    grid = {"optimizer.peak_lr": tuple(rates), "optimizer.weight_decay": (0.1, 0.3)}
    plan = plans.plan(stores, tuned=grid, tuning_seeds=(7, 8), half="report")
    layout = laid_out(plan, tmp_path)
    assert len([cell for cell in layout.cells if cell.kind == "train"]) == 12 and not layout.runs
    assert "baseline/1x for 2 seeds: the grid of the baseline has to be decided first" in layout.unknown
    began = names(events_of(plan, tmp_path), "began")
    assert len(began) == 12 + 12 and all(name.startswith("tuning/peak_lr=") for name in began[:12])
    layout = laid_out(plan, tmp_path)
    assert layout.tuning.settings == {"optimizer.peak_lr": 2e-3, "optimizer.weight_decay": 0.1}
    assert layout.tuning.at_edge == {"optimizer.weight_decay": 0.1}
    assert {run.run.config.optimizer.peak_lr for run in layout.runs.values()} == {2e-3}
    assert experiment.run_experiment(plan, tmp_path) == 0
    said = capsys.readouterr().out
    assert "tuned: peak_lr=0.002,weight_decay=0.1" in said and "weight_decay=0.1 is at the edge of the grid" in said
    assert (tmp_path / "tuned.json").read_text().count("loss_by_seed") == 6


@pytest.mark.parametrize("measure, best", [("micro", 2e-3), ("macro", 2e-3), ("a", 2e-3)])
def test_the_grid_goes_by_the_measure(stores, tmp_path, fake, measure, best):
    """Catches: a domain's name that is not understood; a measure of documents of the other half."""
    fake["loss"] = lambda cell: {1e-3: (3.0, 1.0), 2e-3: (2.0, 9.0)}.get(cell.config.optimizer.peak_lr, (2.0, 2.0))
    plan = plans.plan(stores, tuned={"optimizer.peak_lr": (1e-3, 2e-3)}, tuning_seeds=(7,), measure=measure)
    events_of(plan, tmp_path)
    assert laid_out(plan, tmp_path).tuning.settings == {"optimizer.peak_lr": best}


def test_a_store_is_made_by_commands(stores, tmp_path, fake):
    """In processes of their own. Catches: a store that lies there half made; one that another depends on not found; a
    command whose failure is not told; a second command that makes it again."""
    made = {
        "clean": Store(path=str(stores / "clean")),
        "junk": Store(("data noise {clean} --out {out} --share 0.3 --kinds shuffled --seq-len 32",)),
        "bad": Store(("data noise {junk} --out {out} --share 7",)),
    }
    plan = plans.plan(stores, stores=made, arms={"oracle": Arm(store="clean"), "bad": Arm(store="bad")})
    events = events_of(plan, tmp_path)
    assert names(events, "failed") == ["store/bad"]
    text = next(event.text for event in events if event.kind == "failed")
    assert text.startswith("lfr data noise ") and "share is 7" in text
    assert len(names(events, "finished")) == 1 + 6
    junk = next(cell for cell in laid_out(plan, tmp_path).cells if cell.name == "store/junk")
    assert sorted(path.name for path in junk.folder(tmp_path).iterdir()) == ["done.json", "lock", "store"]
    assert (junk.result(tmp_path) / "train").is_dir()
    unknown = ("bad/1x for 2 seeds: store/bad has to be made first",)
    assert laid_out(plan, tmp_path).unknown == found_in(plan, tmp_path).missing == unknown


def test_a_dry_run_makes_nothing(stores, tmp_path, lfr, monkeypatch):
    """Catches: a cell without its FLOPs or its state; a folder, a plan or a run that a dry run leaves."""
    monkeypatch.setattr("lfr_jax.experiments.plan.load_plan", lambda path: plans.plan(stores))
    monkeypatch.setattr(experiment, "run_experiment", lambda *_: pytest.fail("it runs"))
    code, out, _ = lfr("experiment", "plan.py", "--out", tmp_path / "out", "--dry-run")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and not (tmp_path / "out").exists()
    assert ["baseline/1x/seed0", "1.92e+08", "to", "do"] in lines
    assert out.splitlines()[-1].startswith("12 of 12 cells are to do")


def test_a_command_ends_with_1_if_cells_have_failed(stores, tmp_path, lfr, monkeypatch):
    """Catches: a script that goes on as if all were there."""
    monkeypatch.setattr("lfr_jax.experiments.plan.load_plan", lambda path: plans.plan(stores))
    monkeypatch.setattr(experiment, "run_experiment", lambda plan, out, workers: 2)
    code, _, err = lfr("experiment", "plan.py", "--out", tmp_path, "--workers", "1")
    assert code == 1 and "2 cells have failed; the same command tries them again" in err


def test_workers_share_the_cores():
    """Catches: a core that nobody uses, or that two workers use while others are free."""
    cores = cores_of(1)[0]
    for count in range(1, len(cores) + 1):
        shares = cores_of(count)
        assert len(shares) == count and sorted(core for share in shares for core in share) == sorted(cores)
    assert len(cores_of(len(cores) + 1)) == len(cores) + 1


def test_what_is_made_depends_on_no_working_folder(stores, tmp_path, monkeypatch, fake):
    """Catches: results that a command in another folder does not find."""
    plan = plans.plan(stores, arms={}, seeds=(0,))
    events_of(plan, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert not found_in(plan, pathlib.Path("out")).missing
    assert not events_of(dataclasses.replace(plan, question="?"), pathlib.Path("out"))
