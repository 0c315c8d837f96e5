r"""Losses of several seeds on held-out documents: how far an arm is from the baseline, and how sure that is.

A run is an arm at a budget, with S seeds. Its losses are measured on D documents. Two things make their mean
uncertain, and the variances of both are added:

- other *seeds* would give other losses. Runs of one seed are a pair, as they begin with the same weights and the same
  data. So the variance is that of the difference within pairs, divided by S;
- other *documents* of the same domains would give other losses. Tokens of one document are alike. So what is drawn is
  a whole document, and the number of documents of each domain is kept.

What is tested is always a weighted sum of the losses of runs, a *contrast* $v^\top \ell$. Its variance is

$$ V = V_0 + \sum_g V_g, \quad V_0 = \frac{1}{S} v^\top \operatorname{cov}_s(\ell_s)\, v, \quad
   V_g = \frac{n_g}{n_g - 1} \sum_{d \in g} (v^\top (i_d - \bar i_g))^2 $$

where $i_d$ is what document d adds to the losses, to first order (`measure.influence`), and domain g has $n_g$
documents. These are the variances of a bootstrap over pairs of seeds, and of one over the documents of each domain,
both times n / (n − 1). They are computed in closed form, so that no random number is in a result. What a seed does to
one document is in both parts, which makes intervals a little wider than they must be.

The interval is $v^\top \ell \pm t \sqrt V$ with $t = (V_0\, t_{S-1} + \sum_g V_g\, t_{n_g-1}) / V$: Student's t of each
part, weighted by its variance. This misses no more often than it should with as few as two seeds, where Satterthwaite's
degrees of freedom do. S − 1 degrees for all of V would make it far too wide where documents differ more than seeds.

R runs, S seeds, D documents, C parts of the variance, P contrasts.

References:
  Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 21: the closed form. Rao and Wu 1988,
  "Resampling Inference with Complex Survey Data", JASA 83: n / (n − 1) in each stratum. Owen 2007, "The pigeonhole
  bootstrap", Annals of Applied Statistics 1: two crossed ways to draw. Cochran 1964, "Approximate Significance Levels
  of the Behrens–Fisher Test", Biometrics 20: the weighted t.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from lfr_jax.experiments.measure import Documents, Losses, Measure, influence, mean_loss

ALPHA = 0.05  # how often an interval may miss
SMALLEST_P = 1e-15  # that is told from 0


class Estimate(NamedTuple):
    """A number with its interval. What is not known is NaN, and a note says why."""

    value: float
    low: float  # of the 95 % interval
    high: float
    p: float  # two-sided, against no difference: 0 for a difference, 1 for a ratio; at least 1e-15
    seeds: int  # how many, those that all runs have
    notes: tuple[str, ...] = ()
    sign: str = ""  # ">": it is more than `value`, and how much more is not known; "<": less


class Moments(NamedTuple):
    """The losses of runs, and how they vary together."""

    loss_R: np.ndarray  # f64[R]: means over seeds
    covariance_CxRxR: np.ndarray  # f64[C, R, R]: of these means; by seeds, then by the documents of each domain
    degrees_C: np.ndarray  # f64[C]: of freedom, of each part
    seeds: int
    notes: tuple[str, ...]


def at_common_seeds(runs: Sequence[Losses], documents: Documents) -> tuple[np.ndarray, list[str]]:
    """f64[R, S, D]: the nats by the seeds that all runs have, in one order; and what to note of them.

    Where a loss is not finite it is NaN, and so is every mean that it is in: to leave out a seed that diverged would
    flatter the arm.
    """
    for run in runs:
        if run.nll_SxD.shape != (expected := (len(run.seeds), len(documents.domain_D))):
            raise ValueError(f"found losses of shape {run.nll_SxD.shape}, expected seeds × documents, {expected}")
    seeds = [seed for seed in runs[0].seeds if all(seed in run.seeds for run in runs)]
    if not seeds:
        raise ValueError(f"found the seeds {', '.join(str(run.seeds) for run in runs)}, expected one that all have")
    nll_RxSxD = np.array([run.nll_SxD[[run.seeds.index(seed) for seed in seeds]] for run in runs], np.float64)
    nll_RxSxD = np.where(np.isfinite(nll_RxSxD), nll_RxSxD, math.nan)
    known = len({seed for run in runs for seed in run.seeds})
    notes = {
        f"{len(seeds)} of {known} seeds: the others are missing in some runs": len(seeds) < known,
        "a run has diverged: a loss is not finite": bool(np.isnan(nll_RxSxD).any()),
        "one seed: no interval": len(seeds) == 1,
    }
    return nll_RxSxD, [note for note, holds in notes.items() if holds]


def moments(runs: Sequence[Losses], documents: Documents, measure: Measure) -> Moments:
    """The mean losses of runs, and the parts of their covariance.

    Raises:
      ValueError: losses and documents do not fit; no such domain or unit; no seed is common to all runs.
    """
    nll_RxSxD, notes = at_common_seeds(runs, documents)
    loss_RxS, seeds = mean_loss(nll_RxSxD, documents, measure), nll_RxSxD.shape[1]
    by_seed_RxR = np.atleast_2d(np.cov(loss_RxS)) if seeds > 1 else np.full((len(runs), len(runs)), math.nan)
    covariances, degrees = [by_seed_RxR / seeds], [seeds - 1.0]
    influence_RxD = influence(nll_RxSxD.mean(axis=1), documents, measure)
    measured_D = measure.pools(documents).any(axis=0)
    for name in sorted(set(documents.domain_D[measured_D].tolist())):
        its_RxN = influence_RxD[:, documents.domain_D == name]
        if (n := its_RxN.shape[1]) == 1:
            notes.append(f"{name} has one document: the interval leaves out how its documents differ")
        else:
            covariances.append(n * np.atleast_2d(np.cov(its_RxN)))
            degrees.append(n - 1.0)
    return Moments(loss_RxS.mean(axis=1), np.array(covariances), np.array(degrees), seeds, tuple(notes))


def contrasts(found: Moments, contrast_PxR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f64[P], f64[C, P]: weighted sums of the losses of runs, and the parts of their variances."""
    part_CxP = np.einsum("cpr,pr->cp", contrast_PxR @ found.covariance_CxRxR, contrast_PxR)
    return contrast_PxR @ found.loss_R, np.maximum(part_CxP, 0.0)  # rounding can bring it below 0


def half_width(part_CxP: np.ndarray, degrees_C: np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """f64[P]: of the intervals of contrasts that hold 1 − alpha; 0 where nothing varies.

    Examples:
      >>> half_width(np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]), np.array([4.0, 100.0])).round(2).tolist()
      [2.78, 1.98, 2.38]
    """
    total_P = part_CxP.sum(axis=0)
    return -special.stdtrit(degrees_C, alpha / 2) @ part_CxP / np.sqrt(np.where(total_P == 0, 1.0, total_P))


def p_value(value: float, part_C: np.ndarray, degrees_C: np.ndarray) -> float:
    """Two-sided, against 0: the alpha whose interval just reaches 0. For two runs that are the same it is 1.

    Examples:
      >>> round(p_value(2.38, np.array([0.5, 0.5]), np.array([4.0, 100.0])), 3)
      0.05
    """
    if math.isnan(value + part_C.sum()):
        return math.nan

    def missing(log_p):
        return abs(value) - half_width(part_C[:, None], degrees_C, math.exp(log_p))[0]

    lowest = math.log(SMALLEST_P)
    if value == 0 or missing(lowest) >= 0:
        return SMALLEST_P if value else 1.0
    return math.exp(optimize.brentq(missing, lowest, 0.0))


def paired_difference(arm: Losses, baseline: Losses, documents: Documents, measure: Measure = Measure()) -> Estimate:
    """The loss of an arm minus that of the baseline, a mean over the seeds that both have. Below 0: the arm is better.

    See the top of this file for the interval. With one seed there is none.

    Raises:
      ValueError: losses and documents do not fit; no such domain or unit; no seed that both have.

    Examples:
      >>> documents = Documents(np.array([10, 10]), np.array([40, 40]), np.array(["code", "code"]))
      >>> baseline = Losses((1, 2, 3), np.array([[50.0, 60.0], [52.0, 62.0], [48.0, 58.0]]))
      >>> arm = Losses((1, 2, 3), baseline.nll_SxD - np.array([[1.0], [1.2], [1.1]]))
      >>> found = paired_difference(arm, baseline, documents)
      >>> f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}] p={found.p:.4f}"
      '-0.110 [-0.135, -0.085] p=0.0027'
    """
    found = moments([arm, baseline], documents, measure)
    (value,), part_Cx1 = contrasts(found, np.array([[1.0, -1.0]]))
    (width,) = half_width(part_Cx1, found.degrees_C)
    p = p_value(float(value), part_Cx1[:, 0], found.degrees_C)
    return Estimate(float(value), float(value - width), float(value + width), p, found.seeds, found.notes)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: the chance that any true null has one below 5 % is then below 5 %.

    The k-th smallest of M is multiplied by M + 1 − k, and none becomes less than one before it. NaN stays NaN, and
    counts among the M.

    Examples:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]

    References:
      Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6.
    """
    p_M = np.asarray(p_values, np.float64)
    order_M = np.argsort(p_M)  # NaN last
    adjusted_M = np.empty_like(p_M)
    adjusted_M[order_M] = np.maximum.accumulate(np.minimum(p_M[order_M] * np.arange(len(p_M), 0, -1), 1.0))
    return adjusted_M.tolist()
