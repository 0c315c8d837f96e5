"""Lengths of phases in epochs, for the policies whose phases are passes over the blocks that they draw."""

import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from lfr_jax.schedule.checks import NOT_NEGATIVE, positive_int, real_number
from lfr_jax.schedule.phases import as_written, num_chosen, num_kept
from lfr_jax.schedule.policies.frame import frame
from lfr_jax.schedule.policies.infobatch import infobatch
from lfr_jax.schedule.policies.lfr import lfr
from lfr_jax.schedule.policies.lfr_clusters import lfr_clusters
from lfr_jax.schedule.policies.progress import progress
from lfr_jax.schedule.policies.random_drop import random_drop
from lfr_jax.schedule.policies.ranked import ranked
from lfr_jax.schedule.policies.reducible import reducible
from lfr_jax.schedule.policies.seta import seta
from lfr_jax.schedule.policies.softmax_rounds import softmax_rounds
from lfr_jax.schedule.policies.token_selection import token_selection
from lfr_jax.schedule.policies.uniform import uniform
from lfr_jax.schedule.types import Schedule


class Passes(NamedTuple):
    """A policy, and how many blocks one pass of its phases draws."""

    policy: Callable[..., Schedule]
    # (N, settings of the policy that decide it) -> for each length of the policy, the blocks in one pass.
    blocks: Callable[..., dict[str, int | Fraction]]


def learn_focus_review(n: int, drop: float, drop2: float) -> dict[str, int | Fraction]:
    """The family of `lfr`: a Focus phase draws the blocks that are kept."""
    return dict(learn=n, focus=num_kept(n, drop), review=n, focus2=num_kept(n, drop2))


def first_and_later(n: int, keep: float) -> dict[str, int | Fraction]:
    """A round over all blocks, then rounds over those that are chosen."""
    return dict(first=n, later=num_chosen(n, keep))


def warmup_and_watch(n: int, keep: float) -> dict[str, int | Fraction]:
    """`progress`: two phases over all blocks, then one over those that are chosen."""
    return dict(warmup=n, watch=n, focus=num_chosen(n, keep))


def chosen(n: int, keep: float, skip: float) -> dict[str, int | Fraction]:
    """`ranked`: each round draws the blocks that are chosen; the window ends with the last block."""
    return dict(round_steps=min(num_chosen(n, keep), num_kept(n, skip)))


def half_are_easy(n: int, drop: float) -> dict[str, int | Fraction]:
    """`infobatch`, where half of the blocks are below the mean."""
    return dict(first=n, later=n - as_written(drop) * n / 2, last=n)


def windows(n: int, drop: float, groups: int, window: int) -> dict[str, int | Fraction]:
    """`seta`: of the blocks that are not left out, those in the window."""
    kept = num_kept(n, drop)
    return dict(first=kept, later=Fraction(window * kept, groups), last=kept)


def parts(n: int, rounds: int) -> dict[str, int | Fraction]:
    """`frame`: a round draws its part."""
    return dict(round_steps=Fraction(n, rounds))


def everything(n: int) -> dict[str, int | Fraction]:
    """All blocks, for as long as the policy lasts."""
    return dict(steps=n)


PASSES = {
    "frame": Passes(frame, parts),
    "infobatch": Passes(infobatch, half_are_easy),
    "lfr": Passes(lfr, learn_focus_review),
    "lfr_clusters": Passes(lfr_clusters, learn_focus_review),
    "progress": Passes(progress, warmup_and_watch),
    "random_drop": Passes(random_drop, learn_focus_review),
    "ranked": Passes(ranked, chosen),
    "reducible": Passes(reducible, first_and_later),
    "seta": Passes(seta, windows),
    "softmax_rounds": Passes(softmax_rounds, first_and_later),
    "token_selection": Passes(token_selection, everything),
    "uniform": Passes(uniform, everything),
}


def in_epochs(num_blocks: int, batch_size: int, policy: str = "lfr", **options: Any) -> dict[str, Any]:
    """Converts lengths of phases from epochs to steps, for the policies whose lengths mean epochs.

    An epoch is one pass over the blocks that the phase draws: in a Focus phase of `lfr`, these are the kept blocks.
    Steps are rounded up, so that a pass is complete; 0 epochs leave out a phase that the policy can do without. A phase
    of `infobatch` that drops is counted as if half of the blocks were below the mean.

    Args:
      num_blocks: N, blocks in the corpus.
      batch_size: blocks in a step.
      policy: its name: "frame", "infobatch", "lfr", "lfr_clusters", "progress", "random_drop", "ranked", "reducible",
        "seta", "softmax_rounds", "token_selection" or "uniform". The others count in steps, whatever they draw.
      **options: of the policy. Its lengths are numbers of epochs here, 1 where they are not given. For `lfr`, these
        are the values of the first version of its paper.

    Returns:
      Keyword arguments of the policy: its lengths in steps, the settings that decide how many blocks a pass draws,
      and the other options as they were given.

    Raises:
      ValueError: there is no such policy; a number of epochs is negative or not finite; or the policy refuses an
        option, or a length, such as 0.
      TypeError: the policy does not take an option.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.in_epochs(num_blocks=6400, batch_size=64)
      {'learn': 100, 'focus': 50, 'review': 100, 'focus2': 30, 'drop': 0.5, 'drop2': 0.7}
      >>> schedule.in_epochs(6400, 64, "softmax_rounds", later=2, rounds=3)
      {'first': 100, 'later': 100, 'keep': 0.5, 'rounds': 3}

    References:
      Prakriya et al., "Accelerating LLM Pretraining via LFR Pedagogy", arXiv 2409.06131.
    """
    num_blocks, batch_size = positive_int("num_blocks", num_blocks), positive_int("batch_size", batch_size)
    if policy not in PASSES:
        raise ValueError(f"policy is {policy!r}, expected one whose lengths mean epochs: {', '.join(PASSES)}")
    function, blocks = PASSES[policy]
    deciding = list(inspect.signature(blocks).parameters)[1:]
    defaults = {name: inspect.signature(function).parameters[name].default for name in deciding}
    lengths = blocks(num_blocks, **defaults)
    others = {name: value for name, value in options.items() if name not in lengths}
    function(**others)  # refuses what is out of range, by name
    settings = {name: others.get(name, default) for name, default in defaults.items()}
    epochs = {name: options.get(name, 1) for name in lengths}
    for name, count in epochs.items():
        real_number(f"the number of epochs of {name}", count, NOT_NEGATIVE)
    in_a_pass = blocks(num_blocks, **settings)
    steps = {name: math.ceil(as_written(count) * in_a_pass[name] / batch_size) for name, count in epochs.items()}
    arguments = steps | settings | others
    function(**arguments)  # refuses lengths that are out of range
    return arguments
