r"""The effective-token multiplier: how many times as much the baseline must spend to reach what an arm reached.

The baseline is measured at K budgets. A curve through its losses, $L(C)$, says at which FLOPs $C^*$ it reaches the loss
of an arm. The multiplier is $C^*$ divided by what the arm spent.

**The curve** is a parabola in ln C, by least squares. A scaling law is a power of C plus a floor. Budgets from half to
twice cannot tell the floor from the power, and there the parabola is as close to both as seeds can tell. Beyond the
measured budgets the curve goes on along its tangent. Scaling laws flatten, so they lie above their tangents, and a
tangent reaches any loss at too few FLOPs. So the multiplier becomes too small, which does not flatter an arm. Further
than a factor of 2 beyond the budgets, nothing is said but "more than" or "less than". After many epochs, the baseline
may become worse again. What is below the minimum of its curve, it never reaches; what is above, it reaches before.

**The interval** comes from tests. The fit is linear, so the curve at any C is a weighted sum of the baseline's losses,
and the loss of an arm minus the curve at C is a contrast (`statistics.py`). The interval of $C^*$ holds each C at which
this difference is not significant, and p is that at what the arm spent. So where the curve is flat, the interval has no
end. A bootstrap of $C^*$ would have to invert flat curves.

References:
  Fieller 1954, "Some Problems in Interval Estimation", Journal of the Royal Statistical Society B 16: an interval
  holds what a test does not reject.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lfr_jax.experiments import statistics
from lfr_jax.experiments.measure import Documents, Losses, Measure
from lfr_jax.experiments.statistics import Estimate

REACH = 2.0  # how far beyond the measured budgets the curve is used
PLACES = 401  # at which it is looked at


class Curve(NamedTuple):
    """The baseline's loss as a function of FLOPs."""

    flops_K: np.ndarray  # f64[K]: the measured budgets
    loss_K: np.ndarray  # f64[K]: the loss at each

    def weights(self, flops_P: np.ndarray) -> np.ndarray:
        """f64[P, K]: how much each measured loss counts in the curve at some FLOPs. Each row has the sum 1."""
        center = np.log(self.flops_K).mean()
        x_K, x_P = np.log(self.flops_K) - center, np.log(flops_P) - center
        power_N = np.arange(min(3, len(np.unique(self.flops_K))))
        inside_P = np.clip(x_P, x_K.min(), x_K.max())
        slope_PxN = power_N * inside_P[:, None] ** np.maximum(power_N - 1, 0)
        basis_PxN = inside_P[:, None] ** power_N + (x_P - inside_P)[:, None] * slope_PxN
        return basis_PxN @ np.linalg.pinv(x_K[:, None] ** power_N)

    def loss(self, flops_P: np.ndarray) -> np.ndarray:
        """f64[P]: the curve."""
        return self.weights(flops_P) @ self.loss_K

    def misfit(self) -> float:
        """The largest distance of a measured loss from the curve."""
        return float(np.abs(self.loss(self.flops_K) - self.loss_K).max())

    def places(self) -> np.ndarray:
        """f64[P]: the FLOPs where the curve is looked at, from a factor below the budgets to a factor above them."""
        return np.geomspace(self.flops_K.min() / REACH, self.flops_K.max() * REACH, PLACES)

    def best_so_far(self) -> np.ndarray:
        """f64[P]: where the curve is lowest up to each place. It is the place itself, as long as the curve falls."""
        place_P = self.places()
        loss_P = self.loss(place_P)
        lowest_P = np.where(loss_P <= np.minimum.accumulate(loss_P), np.arange(PLACES), 0)
        return place_P[np.maximum.accumulate(lowest_P)]

    def reaches(self, loss: float) -> float:
        """The FLOPs at which the curve first falls to a loss; the first or the last place if it does not."""
        falling_P = self.loss(self.best_so_far())
        return float(np.interp(-loss, -falling_P, self.places()))


def fit_curve(baseline: Sequence[Losses], documents: Documents, measure: Measure = Measure()) -> Curve:
    """The curve through the losses of the baseline at its budgets, by the seeds that all of them have.

    Raises:
      ValueError: fewer than two budgets; or as for `paired_difference`.

    Examples:
      >>> documents = Documents(np.array([10]), np.array([40]), np.array(["code"]))
      >>> curve = fit_curve([Losses((1,), np.array([[nll]]), c) for nll, c in ((50, 1e12), (45, 2e12))], documents)
      >>> round(curve.reaches(4.75) / 1e12, 3), curve.loss(np.array([4e12])).round(3).tolist()
      (1.414, [4.0])
    """
    return through(baseline, statistics.moments(baseline, documents, measure).loss_R)


def through(baseline: Sequence[Losses], loss_K: np.ndarray) -> Curve:
    """The curve of runs whose losses are known."""
    flops_K = np.array([run.flops for run in baseline], np.float64)
    if len(np.unique(flops_K)) < 2:
        raise ValueError(f"found the baseline at {flops_K.tolist()} FLOPs, expected two budgets or more")
    return Curve(flops_K, loss_K)


def beyond(curve: Curve, reached: float) -> tuple[tuple[str, ...], str]:
    """What to say of a place on the curve: notes, and the sign of an `Estimate`."""
    place_P = curve.places()
    if not place_P[0] < reached < place_P[-1]:
        return ("the baseline's curve does not reach this loss",), "<" if reached <= place_P[0] else ">"
    if not curve.flops_K.min() <= reached <= curve.flops_K.max():
        return ("extrapolated beyond the baseline's budgets",), ""
    return (), ""


def not_rejected(flops_P: np.ndarray, value_P: np.ndarray, width_P: np.ndarray) -> tuple[float, float]:
    """The least and the most FLOPs at which a rising value is within its width of 0; 0 and infinity if there are none.

    Examples:
      >>> flops = np.array([1.0, 2.0, 3.0, 5.0])
      >>> not_rejected(flops, flops - 2.5, np.full(4, 0.75)), not_rejected(flops, flops - 2.5, flops - 1)
      ((1.75, 3.25), (1.75, inf))
    """
    above_P = np.maximum.accumulate(value_P + width_P)
    below_P = np.minimum.accumulate((value_P - width_P)[::-1])[::-1]
    low = 0.0 if above_P[0] >= 0 else float(np.interp(0, above_P, flops_P))
    high = math.inf if below_P[-1] <= 0 else float(np.interp(0, below_P, flops_P))
    return low, high


def multiplier(arm: Losses, baseline: Sequence[Losses], documents: Documents, measure: Measure = Measure()) -> Estimate:
    """The FLOPs at which the baseline's curve reaches an arm's loss, divided by what the arm spent. Above 1: better.

    See the top of this file for the curve and the interval. To divide by less than what was spent, as if a reference
    model were there already, give the arm other `flops`.

    Args:
      arm: with `flops`.
      baseline: the baseline at two budgets or more, each with `flops`.

    Returns:
      An `Estimate`; with a `sign` where the baseline's curve does not reach the loss. A limit is 0 or infinity where
      no test rejects on that side.

    Raises:
      ValueError: as for `fit_curve`.

    Examples:
      >>> documents = Documents(np.array([10, 10]), np.array([40, 40]), np.array(["code", "code"]))
      >>> nll = np.array([[50.0, 60.0], [51.0, 61.0], [49.0, 59.0]])
      >>> baseline = [Losses((1, 2, 3), nll - 5 * np.log2(c), c * 1e12) for c in (0.5, 1.0, 2.0)]
      >>> arm = Losses((1, 2, 3), nll - np.array([[2.5], [2.7], [2.3]]), 1e12)
      >>> found = multiplier(arm, baseline, documents)
      >>> f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] p={found.p:.4f}"
      '1.41 [1.32, 1.52] p=0.0021'
    """
    found = statistics.moments([arm, *baseline], documents, measure)
    curve = through(baseline, found.loss_R[1:])
    if not np.isfinite(found.loss_R).all():
        return Estimate(*[math.nan] * 4, found.seeds, found.notes)
    reached = curve.reaches(found.loss_R[0])
    more, sign = beyond(curve, reached)
    flops_P = np.append(curve.best_so_far(), arm.flops)
    contrast_PxR = np.hstack([np.ones((len(flops_P), 1)), -curve.weights(flops_P)])
    value_P, part_CxP = statistics.contrasts(found, contrast_PxR)
    low = high = p = math.nan
    if found.seeds > 1:
        width_P = statistics.half_width(part_CxP, found.degrees_C)
        low, high = (end / arm.flops for end in not_rejected(curve.places(), value_P[:-1], width_P[:-1]))
        p = statistics.p_value(float(value_P[-1]), part_CxP[:, -1], found.degrees_C)
    return Estimate(reached / arm.flops, low, high, p, found.seeds, found.notes + more, sign)


def ratio_to_oracle(
    arm: Losses, oracle: Losses, baseline: Sequence[Losses], documents: Documents, measure: Measure = Measure()
) -> Estimate:
    r"""The multiplier of an arm divided by that of the oracle: what the regime allows.

    The baseline itself stands at 1 divided by the oracle's multiplier, and not at 0. The interval is that of the
    logarithm, to first order: $\ln C^*$ changes with the losses by $(\mathrm{d}\ell - \mathrm{d}L(C^*)) / L'(C^*)$,
    where $L'$ is the slope by ln C. Seeds, documents and the curve are the same in both multipliers, so much of their
    chance cancels.

    Returns:
      An `Estimate`, with p against 1. It is NaN if the curve does not reach both losses.

    Raises:
      ValueError: as for `fit_curve`.

    Examples:
      >>> documents = Documents(np.array([10, 10]), np.array([40, 40]), np.array(["code", "code"]))
      >>> nll = np.array([[50.0, 60.0], [51.0, 61.0], [49.0, 59.0]])
      >>> baseline = [Losses((1, 2, 3), nll - 5 * np.log2(c), c * 1e12) for c in (0.5, 1.0, 2.0)]
      >>> arm = Losses((1, 2, 3), nll - np.array([[2.5], [2.7], [2.3]]), 1e12)
      >>> found = ratio_to_oracle(arm, Losses((1, 2, 3), nll - 5, 1e12), baseline, documents)
      >>> f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
      '0.71 [0.66, 0.76]'
    """
    found = statistics.moments([arm, oracle, *baseline], documents, measure)
    curve, notes = through(baseline, found.loss_R[2:]), found.notes
    logs, gradients = [], []
    for r, (name, run) in enumerate({"arm": arm, "oracle": oracle}.items()):
        reached = curve.reaches(found.loss_R[r])
        more, sign = beyond(curve, reached)
        notes += tuple(f"{name}: {note}" for note in more)
        if sign or not np.isfinite(found.loss_R).all():
            return Estimate(*[math.nan] * 4, found.seeds, notes)
        around_3xK = curve.weights(reached * np.exp([-1e-3, 0.0, 1e-3]))
        slope = (around_3xK[2] - around_3xK[0]) @ curve.loss_K / 2e-3
        gradients.append(np.append(np.eye(2)[r], -around_3xK[1]) / slope)
        logs.append(math.log(reached / run.flops))
    log = logs[0] - logs[1]
    _, part_Cx1 = statistics.contrasts(found, np.subtract(*gradients)[None])
    (width,) = statistics.half_width(part_Cx1, found.degrees_C)
    p = statistics.p_value(log, part_Cx1[:, 0], found.degrees_C)
    return Estimate(math.exp(log), math.exp(log - width), math.exp(log + width), p, found.seeds, notes)
