"""`lfr report PLAN.py --out DIR`: reads what is finished of an experiment, and writes its page, figures and tables."""

import csv
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from lfr_jax.config.json_files import from_json
from lfr_jax.data.document_loss_files import DocumentLosses, read_document_losses
from lfr_jax.experiments.cell_results import RunResult, found_in
from lfr_jax.experiments.cells import FAILED, read_record
from lfr_jax.experiments.evidence import Evidence, Run, gather
from lfr_jax.experiments.evidence_page import Account, Started, primary_in_words, write_page
from lfr_jax.experiments.evidence_tables import ALL
from lfr_jax.experiments.layout import Layout, laid_out
from lfr_jax.experiments.measure import Documents
from lfr_jax.experiments.plan import HALVES, Plan, load_plan, require_known


def write_report(plan_path: str, out: pathlib.Path, half: str = "") -> str:
    """Writes the report of an experiment to `out`/report; returns the primary figure and the page's path, as text.

    Args:
      plan_path: of the file that sets `plan`.
      out: the folder of the experiment.
      half: of the held-out documents: "choose", "report" or "all"; by default that of the plan.

    Raises:
      FileNotFoundError: there is no plan, or no experiment in the folder.
      FileExistsError: files of other origin would be overwritten.
      ValueError: the plan is none, or files of the experiment do not fit to each other.
    """
    plan = load_plan(plan_path)
    half = half or plan.half
    require_known("half", half, HALVES)
    if not (out / "cells").is_dir():
        raise FileNotFoundError(f"no experiment in {out}; run `lfr experiment {plan_path} --out {out}` first")
    layout = laid_out(plan, out)
    found = estimates(plan, layout, out, half)
    path = write_page(out / "report", plan, half, found, account(plan, plan_path, layout, out))
    return f"{primary_in_words(plan, found)}\nreport: {path}"


def estimates(plan: Plan, layout: Layout, out: pathlib.Path, half: str) -> Evidence | None:
    """All estimates from the runs that are finished; None, if no run is."""
    finished = found_in(plan, out).runs
    if not finished:
        return None
    losses = [read_document_losses(run.held_out) for run in finished]
    require_same_documents(losses, finished)
    counts_D = (losses[0].tokens > 0) & ((losses[0].half == half) | (half == "all"))
    if not counts_D.any():
        raise ValueError(
            f"found no held-out document in the half {half!r}; choose another --half, or hold out more text"
        )
    documents = documents_of(losses[0], counts_D)
    runs = [run_of(run, of_run.nll[counts_D]) for run, of_run in zip(finished, losses)]
    runs += diverged(layout, out, runs)
    arms = [(name, float(budget)) for name, arm in plan.arms.items() for budget in arm.budgets]
    return gather(runs, documents, plan.measure, arms)


def require_same_documents(losses: list[DocumentLosses], runs: Iterable[RunResult]) -> None:
    """Raises ValueError unless all runs were measured on the same documents."""
    for of_run, run in zip(losses, runs):
        if not all(np.array_equal(getattr(of_run, x), getattr(losses[0], x)) for x in ("domain", "half", "tokens")):
            raise ValueError(
                f"{run.held_out}: found losses of other documents than those of the first run, expected the same; "
                f"remove {run.held_out.parent}, and run the experiment again"
            )


def documents_of(losses: DocumentLosses, counts_D: np.ndarray) -> Documents:
    """The documents that count. A domain that is called as a measure is, gets another name."""
    names = [f"{name} (domain)" if name in ALL else name for name in losses.domain[counts_D].tolist()]
    size_D = np.zeros_like(losses.tokens) if losses.bytes is None else losses.bytes
    return Documents(losses.tokens[counts_D], size_D[counts_D], np.array(names))


def run_of(run: RunResult, nll_D: np.ndarray) -> Run:
    own = {name: getattr(run, name) for name in Run._fields if name not in ("seconds", "nll_D")}
    return Run(**own, seconds=run.seconds + run.reference_seconds, nll_D=nll_D)


def diverged(layout: Layout, out: pathlib.Path, runs: list[Run]) -> list[Run]:
    """The runs that have diverged, beside finished ones of other seeds: to leave them out would flatter their arm.

    Their losses and times are not known. Their costs are those of the other seeds.
    """
    finished = {(run.arm, run.budget): run for run in runs}
    return [
        beside._replace(seed=seed, key=planned.run.key, seconds=np.nan, nll_D=np.full_like(beside.nll_D, np.nan))
        for (arm, budget, seed), planned in layout.runs.items()
        if "diverged" in read_record(planned.run, out) and (beside := finished.get((arm, budget)))
    ]


def account(plan: Plan, plan_path: str, layout: Layout, out: pathlib.Path) -> Account:
    """How far the experiment is, and what has failed."""
    left = [cell for cell in layout.cells if not cell.finished(out)]
    failed = {cell.name: error for cell in left if (error := read_record(cell, out, FAILED).get("error"))}
    records = {cell.name: read_record(cell, out) for cell in layout.cells}
    diverged = {name: f"diverged: {record['diverged']}" for name, record in records.items() if "diverged" in record}
    return Account(
        plan_path,
        str(out),
        started(out),
        finished=len(layout.cells) - len(left),
        total=len(layout.cells),
        missing=[*(cell.name for cell in left if cell.name not in failed), *layout.unknown],
        failed=failed | diverged,
        tuning=layout.tuning,
        seconds=sum(record.get("seconds", 0.0) for record in records.values()),
    )


def started(out: pathlib.Path) -> list[Started]:
    """The plans that were started in a folder, the first one first."""
    try:
        rows = list(csv.DictReader((out / "plans.csv").read_text(encoding="utf-8").splitlines()))
    except FileNotFoundError:
        return []
    return [Started(row["plan"], row["started"], primary_of(out / "plans" / f"{row['plan']}.json")) for row in rows]


def primary_of(path: pathlib.Path) -> str:
    """The primary arm of a plan that was started; nothing, where the file is gone."""
    try:
        return from_json(path.read_bytes(), dict[str, Any], path).get("primary", "")
    except FileNotFoundError:
        return ""
