"""What policies by domain have in common: they draw all blocks of a domain equally often."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.estimate import one_of
from lfr_jax.schedule.arrays.groups import Groups, group_means, groups_of, per_block
from lfr_jax.schedule.arrays.observe import Measured
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.phases import consecutive
from lfr_jax.schedule.types import Phase, Schedule, num_blocks
from lfr_jax.schedule.unscored import ignore_losses

By = Literal["domain", "cluster"]


class DomainState(NamedTuple):
    """State of a policy that fixes the shares of the domains before training, for P phases."""

    groups: Groups  # i32[N], i32[G]: the domain of each block, and their sizes
    rates: jax.Array  # f32[P, G]: the rate of a block of each domain in each phase
    rate: jax.Array  # f32[G]: the row of `rates` for the current phase


def in_stages(stages: Any, policy: str, what: str) -> tuple[tuple[Phase, ...], tuple]:
    """The phases 'stage.1', 'stage.2', ..., and what each stage has besides its length.

    Raises:
      ValueError: there is no stage, a stage is not a length and `what`, or a length is not a positive whole number.
    """
    try:
        pairs = [(length, content) for length, content in stages]
    except (TypeError, ValueError):
        raise ValueError(
            f"the stages of {policy} are {stages!r}, expected for each its length and its {what}"
        ) from None
    if not pairs:
        raise ValueError(f"{policy} has no stages, expected at least one: its length and its {what}")
    phases = consecutive((f"stage.{number}", length) for number, (length, _) in enumerate(pairs, 1))
    return phases, tuple(content for _, content in pairs)


def staged(
    phases: tuple[Phase, ...], shares: tuple[Callable[[np.ndarray], np.ndarray], ...], *, by: By, policy: str
) -> Schedule:
    """Builds a policy that gives each domain a fixed share of the draws in each phase.

    Args:
      phases: of the schedule.
      shares: for each phase, (number of blocks int[G]) -> float[G], the domains' relative shares of the draws.
      by: the array of `BlockInfo` that numbers the domains, "domain" or "cluster".
      policy: its name, for errors.

    Returns:
      The schedule; its state is a `DomainState`.
    """
    one_of("by", by, By)

    def init(info):
        num_blocks(info)
        groups = groups_of(info, by, policy)
        size_G = np.bincount(np.asarray(getattr(info, by)))
        rates_PxG = np.stack([np.where(size_G > 0, share(size_G) / np.maximum(size_G, 1), 0.0) for share in shares])
        rates_PxG /= rates_PxG.max(axis=1, keepdims=True)  # or float32 could round a whole row to 0
        return DomainState(groups, jnp.asarray(rates_PxG, jnp.float32), jnp.ones(size_G.shape, jnp.float32))

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        return state._replace(rate=state.rates[phase_index])

    return Schedule(phases, init, ignore_losses, begin, lambda state: per_block(state.rate, state.groups))


def natural(groups: Groups) -> jax.Array:
    """f32[G]: each domain's share of the blocks."""
    return groups.size / np.float32(groups.of.shape[0])


def rates_of_shares(share_G: jax.Array, groups: Groups) -> jax.Array:
    """f32[N]: the rates that give the domains these shares of the draws; exactly 1 where all have their natural one."""
    natural_G = natural(groups)
    return per_block(jnp.where(natural_G > 0, share_G / natural_G, 0.0), groups)


def losses_since(step: jax.Array, measured: Measured, groups: Groups) -> jax.Array:
    """f32[G]: each domain's mean loss, over its blocks that were measured after `step`; NaN if there is none."""
    return group_means(jnp.where(measured.step > step, measured.loss, jnp.nan), groups)[0]


def rounded(x: jax.Array) -> jax.Array:
    """The numbers rounded to 12 significant bits.

    Compilers may round the last bits of a float differently in another program, such as a sweep by `jax.vmap`.
    12 bits hardly ever show it, so the policy decides alike in all programs.
    """
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=11)
