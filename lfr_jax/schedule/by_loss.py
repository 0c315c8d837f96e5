"""What policies by loss have in common: the state, and how losses become rates when a phase begins."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.documents import Documents, documents_of
from lfr_jax.schedule.arrays.estimate import Scores, Unmeasured, estimate, one_of
from lfr_jax.schedule.arrays.groups import Groups, groups_of
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.by_phase import phase_switch
from lfr_jax.schedule.types import RESERVED, BlockInfo, Phase, Schedule, num_blocks, required

Choice = Callable[[jax.Array, dict[str, Any]], jax.Array]
"""(loss f32[N], info) -> bool[N] or f32[N]: the rates of a phase.

The loss of a block that was not measured is NaN. `info` holds what the policy names in `needs`: columns of
`BlockInfo` as f32[N], such as "ref_loss"; `Groups` for "domain" and "cluster"; `Documents` for "documents"; and under
"phase" the number of the phase, a Python integer or traced, for `jax_key` and `of_phase`.
"""


class ScoredState(NamedTuple):
    """State of the policies that `scored` builds."""

    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    info: dict[str, Any]  # f32[N] arrays, `Groups` and `Documents`: what the policy needs from BlockInfo
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
    """Builds a policy that turns each block's loss into its rate when a phase begins.

    Args:
      phases: of the schedule.
      choices: one for each phase: a function from losses to rates; None draws every block equally often. Phases
        that choose alike should have the same function object, as each is compiled once.
      scores: which losses: "pass", "train", "detrended" or "mixed"; see `estimate`. All but "pass" need
        the losses of training steps.
      unmeasured: what a block without a loss counts as. "hardest" leaves it NaN, which
        `hardest` marks first; "domain" and "cluster" give it the mean loss of its group.
      minus: name of a column of `BlockInfo`, which is subtracted from every loss first.
      needs: names of what the choices read of `BlockInfo`, columns included.
      policy: its name, for errors.
      dtype: of the rates, bool or jnp.float32.

    Returns:
      The schedule; its state is a `ScoredState`.

    Raises:
      ValueError: `scores` or `unmeasured` has another value, or `minus` is no name of a column. From `init`:
        `BlockInfo` lacks an array.

    Examples:
      A policy that draws in proportion to the loss:

      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> phases = (schedule.Phase("learn", 0, 10), schedule.Phase("weighted", 10, 20, score=True))
      >>> mine = schedule.scored(phases, (None, lambda loss_N, info: loss_N), dtype=jnp.float32)
      >>> state = mine.init(schedule.BlockInfo(3))
      >>> state = mine.observe(state, jnp.arange(3), jnp.array([1.0, 2.0, 4.0]), 10)
      >>> mine.rates(mine.begin(state, 1)).tolist()
      [1.0, 2.0, 4.0]
    """
    one_of("scores", scores, Scores)
    one_of("unmeasured", unmeasured, Unmeasured)
    if minus in RESERVED:
        raise ValueError(f"minus is {minus!r}, expected the name of a column of BlockInfo, such as 'ref_loss'")
    grouped_by = () if unmeasured == "hardest" else (unmeasured,)
    names = sorted({*needs, *grouped_by, minus} - {""})

    def init(info: BlockInfo) -> ScoredState:
        n = num_blocks(info)
        needed = {name: info_array(info, name, policy) for name in names}
        return ScoredState(init_measured(n), needed, jnp.ones(n, dtype))

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def rate_of(choose, state, phase_index):
        if choose is None:
            return jnp.ones_like(state.rate)
        measured = state.measured
        if minus:
            measured = measured._replace(loss=measured.loss - state.info[minus])
        loss_N = estimate(measured, scores, *(state.info[name] for name in grouped_by))
        return choose(loss_N, state.info | {"phase": phase_index}).astype(dtype)

    functions = {id(choose): functools.partial(rate_of, choose) for choose in choices}
    of_phases = tuple(functions[id(choose)] for choose in choices)

    def begin(state, phase_index):
        return state._replace(rate=phase_switch(of_phases, phase_index, state, phase_index))

    return Schedule(phases, init, fold, begin, phase_rates, observe_train=scores != "pass")


def info_array(info: BlockInfo, name: str, policy: str) -> jax.Array | Groups | Documents:
    """What `BlockInfo` has under this name, as it stands in the state: f32[N] numbers, `Groups` or `Documents`."""
    if name == "documents":
        return documents_of(info, policy)
    if name in ("domain", "cluster"):
        return groups_of(info, name, policy)
    return jnp.asarray(required(info, name, policy), jnp.float32)


def phase_rates(state: ScoredState) -> jax.Array:
    """f32[N]: the rates that `begin` has set."""
    return state.rate.astype(jnp.float32)
