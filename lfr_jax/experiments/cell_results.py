"""What an experiment has found so far: each run of an arm that is finished, and what it has cost."""

import pathlib
from typing import NamedTuple

from lfr_jax.experiments.cells import Cell, read_record
from lfr_jax.experiments.layout import Planned, laid_out
from lfr_jax.experiments.plan import Plan


class RunResult(NamedTuple):
    """A finished run of an arm. Times and costs of its references are apart from its own: they may be amortised."""

    arm: str
    budget: float
    seed: int
    key: str  # of its cell
    steps: int
    trained_tokens: int
    scored_tokens: int
    flops: int  # of its own training and scoring passes
    reference_flops: int  # of its references: their training, and their passes over the store
    seconds: float  # of its own training and scoring
    reference_seconds: float
    held_out: pathlib.Path  # its losses by held-out document, for `read_document_losses`
    run_dir: pathlib.Path


class Found(NamedTuple):
    """What is there of an experiment."""

    runs: tuple[RunResult, ...]
    missing: tuple[str, ...]  # runs that are not finished, have diverged, or are not known yet: in words


def found_in(plan: Plan, out: pathlib.Path) -> Found:
    """Reads what is finished of a plan in a folder.

    Raises:
      ValueError: the plan cannot be carried out, or a file was changed.
    """
    layout = laid_out(plan, out)
    runs, missing = [], []
    for (arm, budget, seed), planned in layout.runs.items():
        record = read_record(planned.run, out)
        if "summary" in record:
            runs.append(result(arm, budget, seed, planned, record["summary"], out))
        else:
            why = f"diverged: {record['diverged']}" if record else "is not finished"
            missing.append(f"{planned.run.name} {why}")
    return Found(tuple(runs), (*missing, *layout.unknown))


def result(arm: str, budget: float, seed: int, planned: Planned, summary: dict, out: pathlib.Path) -> RunResult:
    costs = [cost(cell, out) for cell in planned.references]
    counted = {name: summary[name] for name in ("steps", "trained_tokens", "scored_tokens", "flops", "seconds")}
    return RunResult(
        arm, budget, seed, planned.run.key,
        **counted,
        reference_flops=sum(flops for flops, _ in costs),
        reference_seconds=sum(seconds for _, seconds in costs),
        held_out=planned.run.held_out(out),
        run_dir=planned.run.result(out),
    )  # fmt: skip


def cost(cell: Cell, out: pathlib.Path) -> tuple[int, float]:
    """FLOPs and seconds of a reference's run, or of its scoring pass."""
    record = read_record(cell, out)
    spent = record.get("summary", record)
    return int(spent["flops"]), spent["seconds"]
