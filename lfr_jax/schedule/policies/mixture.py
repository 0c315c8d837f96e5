"""Fixed shares of the draws for each domain, stage by stage."""

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lfr_jax.schedule.by_domain import By, in_stages, staged
from lfr_jax.schedule.checks import WEIGHT, real_number
from lfr_jax.schedule.types import Schedule

Weights = Literal["natural", "equal"] | Sequence[float]


def mixture(stages: Sequence[tuple[int, Weights]] = ((1000, "natural"),), by: By = "domain") -> Schedule:
    r"""Draws from the domains in given proportions, which may change from stage to stage.

    With weights $w_d$, and $n_d$ blocks in domain d, each block of d is drawn at the rate

    $$ r_i = w_{d(i)} / n_{d(i)} $$

    so that domain d gets the share $w_d / \sum w$ of the draws. The sum is over the domains
    that have blocks.

    Args:
      stages: for each stage its length in steps and its weights. Weights are "natural" ($w_d = n_d$: every block
        equally often), "equal" ($w_d = 1$: every domain equally often), or a list with a number, 0 or more, for
        each domain.
      by: the array of `BlockInfo` that numbers the domains: "domain" or "cluster".

    Returns:
      The schedule; its state is a `DomainState`. Its phases are 'stage.1', 'stage.2', ...

    Raises:
      ValueError: there is no stage; a length is not a positive whole number; a weight is negative
        or not finite; or `by` has another value. From `init`: `BlockInfo` lacks the domains; the
        number of weights is not that of the domains; or all domains with a positive weight are empty.

    Examples:
      >>> from lfr_jax import schedule
      >>> s = schedule.mixture([(300, "natural"), (100, [1, 3])])
      >>> state = s.init(schedule.BlockInfo(4, domain=[0, 0, 0, 1]))
      >>> s.rates(s.begin(state, 0)).tolist()
      [1.0, 1.0, 1.0, 1.0]
      >>> [round(rate, 3) for rate in s.rates(s.begin(state, 1)).tolist()]
      [0.111, 0.111, 0.111, 1.0]
    """
    return of_stages(stages, by, "mixture")


def of_stages(stages: Sequence[tuple[int, Weights]], by: By, policy: str) -> Schedule:
    """`mixture`; errors name `policy`, which may be another one that is built on it."""
    phases, weights = in_stages(stages, policy, "weights")
    shares = tuple(
        functools.partial(domain_weights, phase.name, checked_weights(phase.name, of_stage))
        for phase, of_stage in zip(phases, weights)
    )
    return staged(phases, shares, by=by, policy=policy)


def checked_weights(stage: str, weights: Weights) -> str | np.ndarray:
    """The weights of a stage, after a check; numbers become float64[G]."""
    if isinstance(weights, str):
        if weights not in ("natural", "equal"):
            raise ValueError(f"the weights of {stage} are {weights!r}, expected 'natural', 'equal' or numbers")
        return weights
    try:
        return np.array([real_number("a weight", weight, WEIGHT) for weight in weights])
    except (TypeError, ValueError):
        raise ValueError(
            f"the weights of {stage} are {weights!r}, expected {WEIGHT.words} for each domain, 'natural' or 'equal'"
        ) from None


def domain_weights(stage: str, weights: str | np.ndarray, size_G: np.ndarray) -> np.ndarray:
    """float64[G]: the weights of a stage for domains of these sizes."""
    if isinstance(weights, str):
        return size_G.astype(np.float64) if weights == "natural" else np.ones(len(size_G))
    if len(weights) != len(size_G):
        raise ValueError(f"{stage} has {len(weights)} weights, expected {len(size_G)}: one for each domain")
    if not weights[size_G > 0].any():
        raise ValueError(
            f"{stage} has weights {weights.tolist()}, but the domains with a positive weight have no blocks"
        )
    return weights
