"""New domains stage by stage, with a share of old ones."""

import functools
from collections.abc import Sequence

import numpy as np

from lfr_jax.schedule.by_domain import By, in_stages, staged
from lfr_jax.schedule.checks import SHARE_BELOW_1, real_number, whole_number
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
      arXiv 2403.08763. We have read its abstract alone, which does not give the two shares.
    """
    share = real_number("share", share, SHARE_BELOW_1)
    phases, domains = in_stages(stages, "replay", "domains")
    brought = tuple(checked_domains(phase.name, of_stage) for phase, of_stage in zip(phases, domains))
    named = [(domain, stage) for stage, of_stage in enumerate(brought) for domain in of_stage or ()]
    stage_of = dict(named)
    if len(stage_of) < len(named) or brought.count(None) > 1:
        raise ValueError(f"the stages bring the domains {brought}, expected each in one stage, and None in one at most")
    others = brought.index(None) if None in brought else len(brought)  # the stage of domains that no stage names
    shares = tuple(functools.partial(shares_of, stage_of, others, stage, share) for stage in range(len(brought)))
    return staged(phases, shares, by=by, policy="replay")


def checked_domains(stage: str, domains: Sequence[int] | None) -> tuple[int, ...] | None:
    """The domains that a stage brings. Raises ValueError unless they are numbers from 0, or None."""
    if domains is None:
        return None
    try:
        return tuple(whole_number("a domain", domain, 0, 2**31 - 1) for domain in domains)
    except (TypeError, ValueError):
        raise ValueError(f"{stage} brings {domains!r}, expected a list of the numbers of domains, or None") from None


def shares_of(stage_of: dict[int, int], others: int, stage: int, share: float, size_G: np.ndarray) -> np.ndarray:
    """float64[G]: the share of a stage's draws that each domain gets.

    Args:
      stage_of: the stage that brings a domain; `others` brings those that are not in it.
    """
    stage_G = np.full(len(size_G), others)
    for domain, bringing in stage_of.items():
        if domain >= len(size_G):
            raise ValueError(f"stage.{bringing + 1} brings domain {domain}, expected 0 to {len(size_G) - 1}")
        stage_G[domain] = bringing
    new_G, old_G = size_G * (stage_G == stage), size_G * (stage_G < stage)
    if not new_G.any() and not old_G.any():
        raise ValueError(f"stage.{stage + 1} brings no blocks, and there are none to replay")
    if not new_G.any():
        share = 1.0
    return (1 - share) * new_G / max(1, new_G.sum()) + share * old_G / max(1, old_G.sum())
