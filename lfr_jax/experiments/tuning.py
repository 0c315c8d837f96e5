"""The settings that are tuned first, on the baseline alone, so that no arm wins over a baseline that was set badly."""

import itertools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lfr_jax.data.document_loss_files import DocumentLosses, read_document_losses
from lfr_jax.data.domain_names import ALL, unreserved
from lfr_jax.experiments.cells import Cell, read_record
from lfr_jax.experiments.plan import Plan
from lfr_jax.storage.files import write_atomically
from lfr_jax.train.document_losses import by_domain

HALF = "choose"


class Tuning(NamedTuple):
    """What the grid has shown."""

    settings: Mapping[str, Any]  # those of the lowest loss
    tried: list[dict[str, Any]]  # all of the grid, with losses by seed; Infinity: it diverged
    at_edge: dict[str, Any]  # settings whose best value is the lowest or highest that was tried


def grid(plan: Plan) -> list[dict[str, Any]]:
    """All combinations of the values, the last setting changing fastest."""
    return [dict(zip(plan.tuned, values)) for values in itertools.product(*plan.tuned.values())]


def words(settings: Mapping[str, Any]) -> str:
    """Settings in words, such as "peak_lr=0.004,weight_decay=1".

    >>> words({"optimizer.peak_lr": 4e-3, "optimizer.weight_decay": 1.0})
    'peak_lr=0.004,weight_decay=1'
    """
    shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in settings.items()}
    return ",".join(f"{name.rpartition('.')[2]}={value}" for name, value in shown.items())


def decided(
    plan: Plan, tried: list[dict[str, Any]], runs: Mapping[tuple[int, int], Cell], out: pathlib.Path
) -> Tuning | None:
    """The best of the grid by the mean loss over the seeds; None while a run is not finished.

    A run that diverged has an infinite loss.

    Args:
      runs: by the number of the settings in the grid, and seed.

    Raises:
      ValueError: all of them diverged.
    """
    if not all(cell.finished(out) for cell in runs.values()):
        return None
    losses = {place: loss_of_run(cell, out, plan.measure, HALF) for place, cell in runs.items()}
    mean = [np.mean([losses[number, seed] for seed in plan.tuning_seeds]) for number in range(len(tried))]
    best = int(np.argmin(mean))
    if not math.isfinite(mean[best]):
        raise ValueError("tuned: every run of the grid diverged; try lower learning rates")
    table = [
        {"settings": settings, "loss_by_seed": {str(seed): losses[number, seed] for seed in plan.tuning_seeds}}
        for number, settings in enumerate(tried)
    ]
    return Tuning(tried[best], table, at_edge(plan, tried[best]))


def at_edge(plan: Plan, best: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of which the best is the lowest or the highest that was tried, so that others may be better."""
    numbers = {
        name: values
        for name, values in plan.tuned.items()
        if len(values) > 1 and all(type(value) in (int, float) for value in values)
    }
    return {name: best[name] for name, values in numbers.items() if best[name] in (min(values), max(values))}


def loss_of_run(cell: Cell, out: pathlib.Path, measure: str, half: str) -> float:
    """The held-out loss of a finished run, nats per token; infinity, if it diverged."""
    if "diverged" in read_record(cell, out):
        return math.inf
    return loss_of(read_document_losses(cell.held_out(out)), measure, half)


def loss_of(losses: DocumentLosses, measure: str, half: str) -> float:
    """The loss on one half of the documents, or on "all", by the measure of a plan, nats per token.

    Raises:
      ValueError: there is no domain of this name.
    """
    found = {name: loss.loss for name, loss in by_domain(losses, "" if half == "all" else half).items()}
    of_all = found.pop(ALL)
    if measure == "micro":
        return of_all
    if measure == "macro":
        return float(np.mean(list(found.values())))
    if unreserved(measure) not in found:
        raise ValueError(f"measure is {measure!r}, expected micro, macro, or a domain: {', '.join(found)}")
    return found[unreserved(measure)]


def write_tuned(plan: Plan, tuning: Tuning, out: pathlib.Path) -> None:
    """Writes `tuned.json`: for people. What was decided is read off the cells each time."""
    content = {"plan": plan.digest, "half": HALF, "measure": plan.measure, **tuning._asdict()}
    write_atomically(out / "tuned.json", json.dumps(content, indent=1) + "\n")
