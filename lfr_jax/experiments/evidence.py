"""What an experiment has found so far: estimates for each arm of a plan, from its finished runs. Numbers, no words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lfr_jax.experiments.measure import Documents, Losses, Measure, mean_loss
from lfr_jax.experiments.multiplier import Curve, fit_curve, multiplier, ratio_to_oracle
from lfr_jax.experiments.plan import BASELINE
from lfr_jax.experiments.statistics import Estimate, holm, paired_difference

ORACLE = "oracle"  # the arm of this name, if there is one, is the ceiling
COSTS = ("charged", "amortised")  # with everything that an arm needs; without its references
UNITS = {"token": "nats per token", "byte": "bits per byte"}


class Run(NamedTuple):
    """A finished run, and what it has cost."""

    arm: str
    budget: float
    seed: int
    key: str  # of its cell
    steps: int
    trained_tokens: int
    scored_tokens: int
    flops: int  # of its own training and scoring
    reference_flops: int  # of its references: their training, and their passes over the store
    seconds: float  # of all of this
    nll_D: np.ndarray  # f64[D]: of each held-out document, the sum over its tokens; nats


class Key(NamedTuple):
    """What an estimate is of."""

    quantity: str  # "loss"; "difference" to the baseline; "multiplier"; "share of oracle"
    of: str  # the measure: "micro", "macro", or a domain
    per: str = ""  # of a loss and a difference: "token" or "byte"
    cost: str = ""  # of a multiplier and a share: one of `COSTS`


class Point(NamedTuple):
    """An arm at a budget: its runs by seed, and what is estimated from them."""

    arm: str
    budget: float
    measure: str  # of the plan
    runs: tuple[Run, ...]
    estimates: Mapping[Key, Estimate] = {}
    p_holm: float = np.nan  # of the charged multiplier, for the number of arms

    @property
    def name(self) -> str:
        return self.arm if self.budget == 1 else f"{self.arm}, ×{self.budget:g}"

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    def mean(self, field: str) -> float:
        """The mean over seeds of a field of `Run`."""
        return float(np.mean([getattr(run, field) for run in self.runs]))

    def flops(self, cost: str = "charged") -> float:
        """The mean over seeds of what was spent."""
        return self.mean("flops") + (self.mean("reference_flops") if cost == "charged" else 0.0)

    def losses(self, cost: str = "charged") -> Losses:
        return Losses(self.seeds, np.array([run.nll_D for run in self.runs]), self.flops(cost))

    def loss(self, of: str = "", per: str = "token") -> Estimate:
        return self.estimates[Key("loss", of or self.measure, per)]

    def difference(self, of: str = "", per: str = "token") -> Estimate | None:
        """The paired difference to the baseline; None if there is no run to compare with."""
        return self.estimates.get(Key("difference", of or self.measure, per))

    def multiplier(self, cost: str = "charged", of: str = "") -> Estimate | None:
        """None where the baseline's curve is not known."""
        return self.estimates.get(Key("multiplier", of or self.measure, cost=cost))

    def share_of_oracle(self, cost: str = "charged") -> Estimate | None:
        """The arm's multiplier divided by the oracle's."""
        return self.estimates.get(Key("share of oracle", self.measure, cost=cost))


class Evidence(NamedTuple):
    """All that is estimated."""

    measure: str
    documents: Documents
    baseline: tuple[Point, ...]  # by rising budget
    arms: tuple[Point, ...]
    curve: Curve | None  # of the baseline; None while it is not known

    @property
    def domains(self) -> list[str]:
        return sorted(set(self.documents.domain_D.tolist()))

    @property
    def oracle(self) -> Point | None:
        return find(self.arms, ORACLE, 1.0)

    @property
    def measured_in(self) -> list[str]:
        """The units of losses, of `UNITS`: per byte, only where the text of documents is known."""
        return list(UNITS) if self.documents.bytes_D.any() else ["token"]


def gather(runs: Iterable[Run], documents: Documents, measure: str, arms: Sequence[tuple[str, float]]) -> Evidence:
    """Estimates everything from the finished runs.

    Args:
      runs: in any order, those of `BASELINE` among them.
      documents: the held-out documents that `Run.nll_D` is of.
      measure: that of the plan.
      arms: (arm, budget) in the order in which they are shown. Those without a run are left out.
    """
    grouped: dict[tuple[str, float], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        grouped.setdefault((run.arm, run.budget), []).append(run)
    budgets = sorted(budget for arm, budget in grouped if arm == BASELINE)
    found = Evidence(
        measure,
        documents,
        tuple(Point(BASELINE, budget, measure, tuple(grouped[BASELINE, budget])) for budget in budgets),
        tuple(Point(*arm, measure, tuple(grouped[arm])) for arm in arms if arm in grouped),
        None,
    )
    found = found._replace(
        baseline=tuple(point._replace(estimates=losses_of(found, point)) for point in found.baseline),
        arms=tuple(point._replace(estimates=estimates_of(found, point)) for point in found.arms),
        curve=curve_of(found),
    )
    charged = [point.multiplier() for point in found.arms]
    p_values = holm([estimate.p if estimate else np.nan for estimate in charged])
    return found._replace(arms=tuple(point._replace(p_holm=p) for point, p in zip(found.arms, p_values)))


def curve_of(found: Evidence) -> Curve | None:
    """The curve through the baseline's losses by the measure of the plan."""
    runs = [point.losses() for point in found.baseline]
    if len(runs) < 2 or not set.intersection(*(set(run.seeds) for run in runs)):
        return None
    curve = fit_curve(runs, found.documents, Measure(found.measure))
    return curve if np.isfinite(curve.loss_K).all() else None


def losses_of(found: Evidence, point: Point) -> dict[Key, Estimate]:
    """The losses, as means over seeds. They have no intervals: only comparisons do."""
    estimates = {}
    for of in ("micro", "macro", *found.domains):
        for per in found.measured_in:
            loss_S = mean_loss(point.losses().nll_SxD, found.documents, Measure(of, per))
            estimates[Key("loss", of, per)] = Estimate(float(loss_S.mean()), *[np.nan] * 3, len(loss_S))
    return estimates


def estimates_of(found: Evidence, point: Point) -> dict[Key, Estimate]:
    """All estimates for an arm: those for which the baseline has a run of a seed of the arm."""
    estimates, documents = losses_of(found, point), found.documents
    beside = find(found.baseline, BASELINE, point.budget)
    if beside is None or not (paired := set(point.seeds) & set(beside.seeds)):
        return estimates
    curve = [other.losses() for other in found.baseline if paired <= set(other.seeds)]
    oracle = found.oracle if point.arm != ORACLE else None
    for of in ("micro", "macro", *found.domains):
        for per in found.measured_in:
            compared = point.losses(), beside.losses(), documents, Measure(of, per)
            estimates[Key("difference", of, per)] = paired_difference(*compared)
        for cost in COSTS if len(curve) > 1 else ():
            asked = curve, documents, Measure(of)
            estimates[Key("multiplier", of, cost=cost)] = multiplier(point.losses(cost), *asked)
            if oracle and paired & set(oracle.seeds) and of == found.measure:
                runs = point.losses(cost), oracle.losses(cost)
                estimates[Key("share of oracle", of, cost=cost)] = ratio_to_oracle(*runs, *asked)
    return estimates


def find(points: Iterable[Point], arm: str, budget: float) -> Point | None:
    return next((point for point in points if (point.arm, point.budget) == (arm, budget)), None)
