"""What policies that go by measured losses share: the state, and when the losses turn into rates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.estimate import Scores, Unmeasured, checked, estimate
from lfr_jax.schedule.arrays.groups import Groups, groups_of
from lfr_jax.schedule.arrays.observe import Measured, observe
from lfr_jax.schedule.arrays.observe import unmeasured as nothing_measured
from lfr_jax.schedule.phases import of_phase
from lfr_jax.schedule.types import BlockInfo, Phase, Schedule, num_blocks, required

Choice = Callable[[jax.Array, dict[str, Any]], jax.Array]
"""(loss f32[N], info) -> bool[N] or f32[N]: the rates of a phase.

A loss that is not known is NaN. `info` holds what was asked for of `BlockInfo`, by name:
f32[N] reference losses, and `Groups` for "domain" and "cluster".
"""


class ScoredState(NamedTuple):
    """State of the policies that `scored` builds."""

    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    info: dict[str, Any]  # f32[N] arrays and `Groups`: what the policy needs of BlockInfo
    rate: jax.Array  # bool[N] or f32[N]: the rates of this phase


def scored(
    phases: tuple[Phase, ...],
    choices: tuple[Choice | None, ...],
    *,
    scores: Scores = "pass",
    unmeasured: Unmeasured = "hardest",
    minus: str = "",
    needs: tuple[str, ...] = (),
    policy: str = "this policy",
    dtype=bool,
) -> Schedule:
    """A policy that turns each block's loss into its rate whenever a phase begins.

    Args:
      phases: of the schedule.
      choices: for each phase, how losses become rates; None draws every block equally often.
      scores: which losses; see `estimate`. All but "pass" observe the losses of training.
      unmeasured: what a block without a loss counts as: "hardest" leaves it NaN, which
        `hardest` marks first; "domain" and "cluster" give it the mean of the others there.
      minus: name of an array of `BlockInfo` to subtract from every loss, before anything else.
      needs: names of the arrays of `BlockInfo` that the choices read.
      policy: its name, for errors.
      dtype: of the rates, bool or jnp.float32.

    Returns:
      The schedule; its state is a `ScoredState`.

    Raises:
      ValueError: `scores` or `unmeasured` is none of those. From `init`: `BlockInfo` lacks a needed array.

    Examples:
      A policy of one's own, which draws in proportion to the loss:

      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> phases = (schedule.Phase("learn", 0, 10), schedule.Phase("weighted", 10, 20, score=True))
      >>> mine = schedule.scored(phases, (None, lambda loss_N, info: loss_N), dtype=jnp.float32)
      >>> state = mine.init(schedule.BlockInfo(3))
      >>> state = mine.observe(state, jnp.arange(3), jnp.array([1.0, 2.0, 4.0]), 10)
      >>> mine.rates(mine.begin(state, 1)).tolist()
      [1.0, 2.0, 4.0]
    """
    checked("scores", scores, Scores)
    checked("unmeasured", unmeasured, Unmeasured)
    grouped_by = () if unmeasured == "hardest" else (unmeasured,)
    names = sorted({*needs, *grouped_by, minus} - {""})

    def init(info: BlockInfo) -> ScoredState:
        n = num_blocks(info)
        kept = {name: given(info, name, policy) for name in names}
        return ScoredState(nothing_measured(n), kept, jnp.ones(n, dtype))

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def begin(state, phase_index):
        choose = of_phase(choices, phase_index)
        if choose is None:
            return state._replace(rate=jnp.ones_like(state.rate))
        measured = state.measured
        if minus:
            measured = measured._replace(loss=measured.loss - state.info[minus])
        loss_N = estimate(measured, scores, *(state.info[name] for name in grouped_by))
        return state._replace(rate=choose(loss_N, state.info).astype(dtype))

    return Schedule(phases, init, fold, begin, rates, observe_train=scores != "pass")


def given(info: BlockInfo, name: str, policy: str) -> jax.Array | Groups:
    """What a policy keeps of `BlockInfo.<name>`."""
    if name in ("domain", "cluster"):
        return groups_of(info, name, policy)
    return jnp.asarray(required(info, name, policy), jnp.float32)


def rates(state) -> jax.Array:
    """f32[N]: the rates of the phase that the state is in."""
    return state.rate.astype(jnp.float32)
