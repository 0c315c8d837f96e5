"""A whole plan is run: what it costs, what it gives, and that each cell is made once, whatever ends the processes."""

import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import plans
import pytest
from conftest import once
from helpers import rows
from running import PATIENCE, TESTS, environment

from lfr_jax.data.document_loss_files import read_document_losses
from lfr_jax.experiments import experiment
from lfr_jax.experiments.cell_results import found_in
from lfr_jax.experiments.cells import DONE
from lfr_jax.experiments.layout import laid_out
from lfr_jax.experiments.plan import Arm
from lfr_jax.experiments.workers import Crew, make_cells
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.storage.unfinished import claim
from lfr_jax.train.flops import Spent


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return once(tmp_path_factory, "experiment_stores", lambda folder: folder.mkdir() or plans.make_stores(folder))


@pytest.fixture(scope="module")
def made(tmp_path_factory, stores):
    """A folder in which the whole plan was carried out, in this process."""
    return once(
        tmp_path_factory, "experiment", lambda out: make_cells(plans.plan(stores), out, "first", lambda event: None)
    )


def copied(made, tmp_path) -> pathlib.Path:
    """A copy in which more may be made."""
    return pathlib.Path(shutil.copytree(made, tmp_path / "out"))


def stamps(out) -> dict[str, tuple[int, int]]:
    """When each file that says what a cell has come to was written, and as which file."""
    files = [*out.glob(f"cells/*/{DONE}"), *out.glob("cells/*/run/summary.json"), *out.glob("cells/*/held_out.csv")]
    return {str(path.relative_to(out)): (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def losses(out) -> dict[str, bytes]:
    """The numbers that an experiment is about, bit by bit."""
    found = [*out.glob("cells/*/held_out.csv"), *out.glob("cells/*/scores.csv")]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def test_a_plan_is_carried_out_at_equal_flops(stores, made):
    """Catches: a run, a seed or a budget that is left out; FLOPs that differ by more than a step from what the budget
    is; a reference that the result does not count."""
    found = found_in(plans.plan(stores), made)
    assert not found.missing
    expected = {
        *itertools.product(["baseline"], [0.5, 1.0], [0, 1]),
        *itertools.product(["oracle", "reducible"], [1.0], [0, 1]),
    }
    assert {(run.arm, run.budget, run.seed) for run in found.runs} == expected
    step = Spent().train(plans.config().model, 8, 32).flops
    for run in found.runs:
        assert 0 <= run.budget * 16 * step - run.flops - run.reference_flops < step
        assert (run.reference_flops > 0) == (run.reference_seconds > 0) == (run.arm == "reducible")
        assert (run.scored_tokens > 0) == (run.arm == "reducible") and run.trained_tokens == run.steps * 8 * 32


def test_all_arms_are_measured_on_the_same_documents(stores, made):
    """Catches: an oracle that is measured on the held-out text of its own store, or on other documents."""
    measured = [read_document_losses(run.held_out) for run in found_in(plans.plan(stores), made).runs]
    assert len(measured) == 8 and len(measured[0].nll) > 1
    assert len({tuple(each.tokens) for each in measured}) == 1 and len({tuple(each.nll) for each in measured}) == 8


def test_arms_begin_as_a_pair(stores, made):
    """Catches: other initial params, or another order of the data, for an arm whose first round draws all blocks as
    the baseline does; and seeds that are all alike."""
    of = {(run.arm, run.budget, run.seed): rows(run.run_dir) for run in found_in(plans.plan(stores), made).runs}
    for seed in (0, 1):
        arm, baseline = of["reducible", 1.0, seed], of["baseline", 1.0, seed]
        first = [row for row in arm if row["phase"] == arm[0]["phase"]]
        assert 2 <= len(first) < len(arm)
        assert [row["loss"] for row in first] == [row["loss"] for row in baseline[: len(first)]]
        assert arm[len(first)]["loss"] != baseline[len(first)]["loss"]
    assert of["baseline", 1.0, 0][0]["loss"] != of["baseline", 1.0, 1][0]["loss"]


def test_a_changed_plan_runs_only_what_is_new(stores, made, tmp_path):
    """Catches: a run that is made again, under its old key or a new one, because an arm was added."""
    out, events = copied(made, tmp_path), []
    before = stamps(out)
    more = plans.plan(stores).arms | {
        "longer": Arm({"train.log_every": 3}, budgets=(0.5, 1.0)),
        "half": Arm(store="clean", budgets=(0.5,)),
    }
    plan = plans.plan(stores, arms=more)
    make_cells(plan, out, "second", events.append)
    assert [event.cell.name for event in events if event.kind == "finished"] == ["half/0.5x/seed0", "half/0.5x/seed1"]
    assert before.items() <= stamps(out).items() and len(stamps(out)) == len(before) + 2 * 3
    assert len(found_in(plan, out).runs) == 8 + 4 + 2 and not found_in(plan, out).missing


@pytest.mark.slow
@pytest.mark.parametrize("moment, count", [("step", 21), ("held_out", 2), ("record", 3), ("done", 3)])
def test_a_killed_process_loses_its_cell_alone(stores, made, tmp_path, moment, count):
    """Catches: half a cell taken for a whole one; a finished one made again; other numbers after an interruption."""
    out = tmp_path / "out"
    command = [sys.executable, str(TESTS / "killed_experiment.py"), str(stores), str(out), moment, str(count)]
    ended = subprocess.run(command, env=environment(devices=8), capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    finished = {name: stamp for name, stamp in stamps(out).items() if name.endswith(DONE)}
    assert len(finished) == {"step": 1, "held_out": 1, "record": 2, "done": 3}[moment]
    folders = {str(pathlib.Path(name).parent) for name in finished}
    before = {name: stamp for name, stamp in stamps(out).items() if name.startswith(tuple(folders))}
    events = []
    make_cells(plans.plan(stores), out, "again", events.append)
    assert before.items() <= stamps(out).items()
    assert len([event for event in events if event.kind == "finished"]) == len(list(out.glob("cells/*"))) - len(
        finished
    )
    assert losses(out) == losses(made)


@pytest.mark.slow
def test_two_workers_share_the_work_though_one_is_killed(stores, made, tmp_path):
    """SIGKILL comes to a worker in its second run, at some moment of it. Catches: a cell that two workers make; one
    that is lost with its worker, or made anew though it was finished; an experiment that ends with the worker."""
    out, began, finished, crashed = tmp_path / "out", [], [], []
    with Crew(2, plans.plan(stores), out) as crew:
        first = {process.pid for _, process in crew.at_work.values()}
        for event in crew.events():
            {"began": began, "finished": finished, "crashed": crashed}[event.kind].append(event.cell)
            if event.kind == "began" and len(began) == 4:
                os.kill(max(first), signal.SIGKILL)
    assert len(crashed) <= 1 and len(finished) == len(set(finished)) == 12
    assert len(began) == 12 + len(crashed)
    assert losses(out).keys() == losses(made).keys()
    for run in found_in(plans.plan(stores), out).runs:
        other = pathlib.Path(made, *run.held_out.parts[len(out.parts) :])
        assert read_document_losses(run.held_out).nll == pytest.approx(read_document_losses(other).nll, rel=1e-5)


@pytest.mark.slow
def test_a_branch_of_the_trunk_is_the_run_of_its_own(stores, tmp_path):
    """Catches: another decay, another order of the data, or other costs, than an arm of the same settings has."""
    wsd = {"train.steps": 20, "optimizer.lr_schedule": "wsd", "optimizer.decay_fraction": 0.3}
    own = Arm(budgets=(0.5, 1.0))
    plan = plans.plan(stores, config=plans.config(**wsd), arms={"own": own}, seeds=(0,))
    make_cells(plan, tmp_path, "first", lambda event: None)
    runs = {(run.arm, run.budget): run for run in found_in(plan, tmp_path).runs}
    for budget in own.budgets:
        branch, other = runs["baseline", budget], runs["own", budget]
        assert branch.run_dir != other.run_dir and branch.held_out.read_text() == other.held_out.read_text()
        assert (branch.steps, branch.flops, branch.trained_tokens) == (other.steps, other.flops, other.trained_tokens)
        assert len(rows(branch.run_dir)) == 6 * budget  # the decay alone was trained


def is_free(cell: pathlib.Path) -> bool:
    """Whether no process holds the lock of a cell."""
    if claimed := claim(cell):
        os.close(claimed.lock)
    return claimed is not None


@pytest.mark.slow
@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_end_of_the_command_is_the_end_of_its_workers(stores, tmp_path, sent, code):
    """Catches: orphans that go on training; a signal that looks like a failure; a cell that is lost, or made again."""
    out = tmp_path / "out"
    (tmp_path / "plan.py").write_text(f"import pathlib, plans\nplan = plans.plan(pathlib.Path({str(stores)!r}))\n")
    words = ["experiment", str(tmp_path / "plan.py"), "--out", str(out), "--workers", "1"]
    command = [sys.executable, "-m", "lfr_jax.cli", *words]
    with subprocess.Popen(command, env=environment(devices=8), stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        process.send_signal(sent)
        assert process.wait(PATIENCE) == code
    assert first.startswith("[1/12] baseline/1x/seed0  loss ")
    deadline = time.monotonic() + PATIENCE
    while not all(map(is_free, out.glob("cells/*"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before, events = stamps(out), []
    make_cells(plans.plan(stores, seeds=(0,), arms={}), out, "again", events.append)
    assert before.items() <= stamps(out).items() and len(stamps(out)) == 2 * 3


def test_a_finished_experiment_starts_no_process(stores, made, tmp_path, monkeypatch, capsys):
    """Catches: a command that does its work again; a plan that is not written down, or twice."""
    out = copied(made, tmp_path)
    monkeypatch.setattr(experiment, "Crew", lambda *_: pytest.fail("a process is started"))
    before = stamps(out)
    for _ in range(2):
        assert experiment.run_experiment(plans.plan(stores), out) == 0
    assert "12 of 12 cells are finished" in capsys.readouterr().out and stamps(out) == before
    header, row = (out / "plans.csv").read_text().splitlines()
    assert header == "plan,started" and row.startswith(plans.plan(stores).digest + ",")
    assert (out / "plans" / f"{plans.plan(stores).digest}.json").is_file()


def test_a_run_that_diverged_is_a_result(stores, tmp_path):
    """Catches: a run that is trained again by every command, and diverges each time; one that counts as finished
    with a loss."""
    plan = plans.plan(stores, arms={"wild": Arm({"optimizer.peak_lr": 1e30, "optimizer.clip_norm": 0.0})}, seeds=(0,))
    layout = laid_out(plan, tmp_path)
    wild, events = layout.runs["wild", 1.0, 0].run, []
    for cell in layout.cells:
        if cell.config and cell != wild:  # not to be trained here
            cell.folder(tmp_path).mkdir(parents=True)
            (cell.folder(tmp_path) / DONE).write_text("{}")
    for command in ("first", "second"):
        make_cells(plan, tmp_path, command, events.append)
    assert [event.kind for event in events] == ["began", "finished"]
    assert "wild/1x/seed0 diverged: " in found_in(plan, tmp_path).missing[-1]
    assert RunDir(wild.result(tmp_path)).exists and not wild.held_out(tmp_path).exists()
