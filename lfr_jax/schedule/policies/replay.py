"""New domains stage by stage, with a share of old ones."""

import functools
from collections.abc import Sequence

import numpy as np

from lfr_jax.schedule.by_domain import By, staged
from lfr_jax.schedule.checks import SHARE_BELOW_1, real_number
from lfr_jax.schedule.phases import consecutive
from lfr_jax.schedule.types import Schedule

Stage = tuple[int, Sequence[int] | None]


def replay(stages: Sequence[Stage] = ((1000, (0,)), (1000, None)), share: float = 0.05, by: By = "domain") -> Schedule:
    r"""Draws from new domains in each stage, and a small share of the draws from those of earlier stages.

    This is for continual pre-training, where data arrive one corpus after another. If stage s brings
    $n$ new blocks, and the stages before it brought $m$ blocks, then

    $$ r_i = \begin{cases} (1 - \text{share}) / n & \text{i is new} \\ \text{share} / m & \text{i is old} \\
       0 & \text{otherwise} \end{cases} $$

    In the first stage nothing is old. A stage that brings nothing new only replays.

    Args:
      stages: for each stage its length in steps and the numbers of the domains that it brings. None stands for
        all domains that no stage names.
      share: how much of each stage but the first is old, as a share of the draws. Published: 5 % for a weak shift
        between two English corpora, 25 % for a strong one, from English to German.
      by: the array of `BlockInfo` that numbers the domains: "domain" or "cluster".

    Returns:
      The schedule; its state is a `DomainState`. Its phases are 'stage.1', 'stage.2', ...

    Raises:
      ValueError: there is no stage; a domain comes in two stages; a length is not a positive whole number; `share` is
        outside [0, 1); or `by` has another value. From `init`: `BlockInfo` lacks the domains; a domain
        that a stage names does not exist; or the first stage brings no blocks.

    Examples:
      >>> from lfr_jax import schedule
      >>> s = schedule.replay([(100, [0]), (50, [1])], share=0.25)
      >>> state = s.init(schedule.BlockInfo(4, domain=[0, 0, 0, 1]))
      >>> s.rates(s.begin(state, 0)).tolist()
      [1.0, 1.0, 1.0, 0.0]
      >>> [round(rate, 3) for rate in s.rates(s.begin(state, 1)).tolist()]  # 0.25 / 3 against 0.75
      [0.111, 0.111, 0.111, 1.0]

    References:
      Ibrahim et al. 2024, "Simple and Scalable Strategies to Continually Pre-train Large Language Models",
      arXiv 2403.08763.
    """
    if not stages:
        raise ValueError("replay has no stages, expected at least one: its length and its domains")
    share = real_number("share", share, SHARE_BELOW_1)
    phases = consecutive((f"stage.{number}", length) for number, (length, _) in enumerate(stages, 1))
    brought = tuple(None if domains is None else tuple(domains) for _, domains in stages)
    named = [domain for domains in brought for domain in domains or ()]
    if len(set(named)) < len(named) or brought.count(None) > 1:
        raise ValueError(f"the stages bring the domains {brought}, expected each in one stage, and None in one at most")
    shares = tuple(functools.partial(shares_of, brought, number, share) for number in range(len(stages)))
    return staged(phases, shares, by=by, policy="replay")


def shares_of(brought: tuple[tuple[int, ...] | None, ...], stage: int, share: float, size_G: np.ndarray) -> np.ndarray:
    """float64[G]: the share of a stage's draws that each domain gets."""
    stage_G = np.full(len(size_G), brought.index(None) if None in brought else len(brought))
    for number, domains in enumerate(brought):
        for domain in domains or ():
            if not 0 <= domain < len(size_G):
                raise ValueError(f"stage.{number + 1} brings domain {domain}, expected 0 to {len(size_G) - 1}")
            stage_G[domain] = number
    new_G, old_G = size_G * (stage_G == stage), size_G * (stage_G < stage)
    if not new_G.any() and not old_G.any():
        raise ValueError(f"stage.{stage + 1} brings no blocks, and there are none to replay")
    if not new_G.any():
        share = 1.0
    return (1 - share) * new_G / max(1, new_G.sum()) + share * old_G / max(1, old_G.sum())
