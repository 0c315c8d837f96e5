"""The tables of an experiment, for people and as CSV."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lfr_jax.experiments.evidence import UNITS, Evidence, Key, Point
from lfr_jax.experiments.measure import Measure, mean_loss
from lfr_jax.experiments.tables import Table, in_words, millions, p_value, times, with_interval
from lfr_jax.experiments.tuning import Tuning

ALL = {"micro": "all, micro", "macro": "all, macro"}  # measures over all domains


def main_table(found: Evidence, primary: str) -> Table:
    """A row for the baseline at budget 1, and one for each arm: what it reached, and what it spent."""
    head = (
        "arm", "seeds", ("multiplier", "charged"), ("multiplier", "amortised"), ("p", "Holm"),
        ("share of oracle", "charged"), ("share of oracle", "amortised"), ("difference", found.measure),
        ("loss", "micro"), ("loss", "macro"), "steps", ("trained", "scored"),
        ("FLOPs", "amortised"), "seconds",
    )  # fmt: skip
    points = [*(point for point in found.baseline if point.budget == 1), *found.arms]
    return Table(
        head,
        [
            (
                (point.name, "primary") if point.arm == primary else point.name,
                str(len(point.runs)),
                with_interval(point.multiplier(), ".2f"),
                with_interval(point.multiplier("amortised"), ".2f"),
                p_value(point.p_holm),
                with_interval(point.share_of_oracle(), ".2f"),
                with_interval(point.share_of_oracle("amortised"), ".2f"),
                with_interval(point.difference(), "+.4f"),
                loss_in_words(found, point, "micro"),
                loss_in_words(found, point, "macro"),
                in_words(point.mean("steps"), ",.0f"),
                (millions(point.mean("trained_tokens")), millions(point.mean("scored_tokens"))),
                (in_words(point.flops(), ".3e"), in_words(point.flops("amortised"), ".3e")),
                in_words(point.mean("seconds"), ",.0f"),
            )
            for point in points
        ],
        [row for row, point in enumerate(points) if point.arm == primary],
    )


def loss_in_words(found: Evidence, point: Point, of: str) -> tuple[str, str]:
    """A loss, and its standard deviation over seeds."""
    value = in_words(point.loss(of).value, ".4f")
    if len(point.runs) < 2:
        return value, ""
    deviation = np.std(mean_loss(point.losses().nll_SxD, found.documents, Measure(of)), ddof=1)
    return value, f"SD {in_words(deviation, '.4f')}"


def domain_table(found: Evidence, per: str) -> Table:
    """The loss by domain, in the unit of `UNITS[per]`; below it the difference to the baseline."""
    measures = {**ALL, **{domain: domain for domain in found.domains}}
    points = [*(point for point in found.baseline if point.budget == 1), *found.arms]
    return Table(
        ["arm", *measures.values()],
        [[point.name, *(loss_and_difference(point, of, per) for of in measures)] for point in points],
    )


def loss_and_difference(point: Point, of: str, per: str) -> tuple[str, ...]:
    loss, difference = in_words(point.loss(of, per).value, ".4f"), point.difference(of, per)
    return (loss, *with_interval(difference, "+.4f")) if difference else (loss,)


def curve_table(found: Evidence) -> Table:
    """The baseline at its budgets, and how far each lies from the fitted curve."""
    rows = []
    for point in found.baseline:
        loss, flops = point.loss().value, point.flops()
        off = loss - float(found.curve.loss(np.array([flops]))[0]) if found.curve else math.nan
        rows.append(
            (times(point.budget), str(len(point.runs)), f"{flops:.3e}", in_words(loss, ".4f"), in_words(off, "+.4f"))
        )
    return Table(("budget", "seeds", "FLOPs", f"loss ({found.measure})", "above the curve"), rows)


def tuning_table(tuning: Tuning) -> Table:
    """All settings that the baseline was tried with; the best is marked."""
    rows = [
        (
            *map(str, tried["settings"].values()),
            str(len(losses := list(tried["loss_by_seed"].values()))),
            in_words(np.mean(losses), ".4f") if np.isfinite(losses).all() else "diverged",
        )
        for tried in tuning.tried
    ]
    best = [row for row, tried in enumerate(tuning.tried) if tried["settings"] == tuning.settings]
    return Table((*tuning.settings, "seeds", "loss"), rows, best)


def notes(found: Evidence) -> dict[str, list[str]]:
    """What the statistics say of the differences and the charged multipliers -> the arms of which they say it."""
    arms: dict[str, list[str]] = {}
    for point in found.arms:
        known = [estimate for estimate in (point.difference(), point.multiplier()) if estimate]
        for note in dict.fromkeys(note for estimate in known for note in estimate.notes):
            arms.setdefault(note, []).append(point.name)
    return arms


def cell_rows(found: Evidence) -> Iterator[dict[str, Any]]:
    """`cells.csv`: a row for each run. Losses are of the half of the documents that the report is of."""
    for point in (*found.baseline, *found.arms):
        for run in point.runs:
            row = {name: getattr(run, name) for name in run._fields if name != "nll_D"}
            for per in found.measured_in:
                for of in (*ALL, *found.domains):
                    row[f"{of} ({UNITS[per]})"] = float(mean_loss(run.nll_D, found.documents, Measure(of, per)))
            yield row


def estimate_rows(found: Evidence) -> Iterator[dict[str, Any]]:
    """`estimates.csv`: a row for each estimate."""
    for point in (*found.baseline, *found.arms):
        charged = Key("multiplier", found.measure, cost="charged")
        for key, estimate in point.estimates.items():
            yield {
                "arm": point.arm,
                "budget": point.budget,
                "quantity": key.quantity,
                "of": key.of,
                "unit": UNITS.get(key.per, ""),
                "cost": key.cost,
                **{name: getattr(estimate, name) for name in ("value", "low", "high", "p")},
                "p_holm": point.p_holm if key == charged else math.nan,
                "seeds": estimate.seeds,
                "sign": estimate.sign,
                "notes": "; ".join(estimate.notes),
            }
