"""Blocks whose loss still falls, without a reference model."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.estimate import Scores, Unmeasured, estimate, one_of
from lfr_jax.schedule.arrays.groups import Groups, fill, group_means, groups_of, per_block
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.by_phase import phase_switch
from lfr_jax.schedule.checks import KEEP, PHASES, positive_int, real_number
from lfr_jax.schedule.phases import consecutive, num_chosen
from lfr_jax.schedule.types import Schedule, num_blocks
from lfr_jax.schedule.unscored import drawn_rates

PASSES = ("pass", "mixed")  # the values of `scores` that ask for a scoring pass


class ProgressState(NamedTuple):
    """State of a policy by progress."""

    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    groups: dict[str, Groups]  # those that the options name, by name
    before: jax.Array  # f32[N]: the losses when the newest 'watch' began; NaN = not known
    newest: jax.Array  # i32[]: the newest step of all measurements at that time; −1 = none
    drawn: jax.Array  # bool[N]: the blocks that this phase draws


def progress(
    *,
    warmup: int = 1000,
    watch: int = 1000,
    focus: int = 4000,
    reps: int = 1,
    keep: float = 0.5,
    relative_to: Literal["", "domain", "cluster"] = "",
    scores: Scores = "pass",
    scores_before: Literal["", "pass", "train", "detrended", "mixed"] = "",
    unmeasured: Unmeasured = "hardest",
) -> Schedule:
    r"""Draws all blocks, watches how far the loss of each falls, then draws those whose loss has fallen furthest.

    Let $\ell^{\text{before}}$ and $\ell$ be the losses at both ends of the phase 'watch', which draws all blocks
    equally often, as the warm-up does. In the phase 'focus' the rates are

    $$ r_i = [\, i \in \text{the } k \text{ with the highest } \ell^{\text{before}}_i - \ell_i - m_{g(i)} \,],
       \quad k = \lceil \text{keep} \cdot N \rceil $$

    where m is 0, or with `relative_to` the mean fall in the block's domain or cluster. Noise stays as hard as it was,
    and what is learned stays easy; both have a small fall. `reducible` finds the same blocks by a reference model.

    Falls are compared over phases that draw all blocks alike, as training on a block lowers its loss, whatever its
    worth. The warm-up matters: what is learned first is easy, and noise has easy parts too, such as that there are only
    hexadecimal digits. In a corpus of which half was shuffled words and such digits, the better half by
    $\ell^{50} - \ell^{200}$ (losses after so many steps) was 48 % clean, by $\ell^{100} - \ell^{400}$ 81 %, by
    $\ell^{200} - \ell^{400}$ 95 %, with one seed and a model of half a million parameters.

    Learning progress is an old signal: Oudeyer et al. use it for robots, Graves et al. for tasks, as the arms of a
    bandit. Its use for blocks, and all that is said above, is ours.

    Args:
      warmup: length of the first phase in steps. Give it a pass over the blocks at least, if `scores` or
        `scores_before` needs losses of training.
      watch, focus: lengths of the other two. With "pass", each is preceded by a scoring pass, unless `scores_before`
        says otherwise.
      reps: how often 'watch' and 'focus' follow one another.
      keep: share of the blocks that 'focus' draws.
      relative_to: "": all blocks compete, so the domain that is learned just now may get all draws, as tables do in the
        short run of the picture. "domain", "cluster": a fall counts in comparison with those of its group. Then no
        domain wins as a whole; but one that is all noise is not found.
      scores: as of `lfr`. "train" and "detrended" cost nothing; compare with "detrended".
      scores_before: the same for the losses before the watch alone; "": as `scores`. With "detrended", the losses of
        the warm-up take the place of the first of two passes. The trend that they lack is one number for all blocks,
        so falls keep their order.
      unmeasured: as of `lfr`, but "domain" and "cluster" give a block the mean fall of its group. A block counts as
        measured if it was measured before and after the watch. Each scoring pass over a sample draws another one: a
        share q of the blocks in each is q² of them in both. With `scores_before="detrended"` it is q.

    Returns:
      The schedule, with the phases 'warmup', 'watch' and 'focus'; 'watch.1', 'focus.1', ... if `reps` is more than 1.
      Its state is a `ProgressState`.

    Raises:
      ValueError: a length or `reps` is not a positive whole number, `keep` is outside (0, 1], or another option has
        another value. From `init`: `BlockInfo` lacks the groups.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.progress(keep=0.34)
      >>> state = s.init(schedule.BlockInfo(3))
      >>> state = s.begin(s.observe(state, jnp.arange(3), jnp.array([4.0, 9.0, 6.0]), 1000), 1)
      >>> state = s.begin(s.observe(state, jnp.arange(3), jnp.array([3.9, 9.0, 5.0]), 2000), 2)
      >>> s.rates(state).tolist()  # falls of 0.1, 0 and 1; two of the three are kept
      [1.0, 0.0, 1.0]

    References:
      Oudeyer, Kaplan, Hafner 2007, "Intrinsic Motivation Systems for Autonomous Mental Development" (not read here).

      Graves, Bellemare, Menick, Munos, Kavukcuoglu 2017, "Automated Curriculum Learning for Neural Networks", arXiv
      1704.03003.
    """
    one_of("scores", scores, Scores)
    one_of("unmeasured", unmeasured, Unmeasured)
    before = scores_before or scores
    one_of("scores_before", before, Scores)
    one_of("relative_to", relative_to, Literal["", "domain", "cluster"])
    keep = real_number("keep", keep, KEEP)
    reps = positive_int("reps", reps, most=PHASES)
    parts = [("warmup", warmup)]
    for rep in range(1, reps + 1):
        suffix = f".{rep}" if reps > 1 else ""
        parts += [("watch" + suffix, watch, before in PASSES), ("focus" + suffix, focus, scores in PASSES)]
    phases = consecutive(parts)
    filled_by = "" if unmeasured == "hardest" else unmeasured

    def init(info):
        n = num_blocks(info)
        groups = {name: groups_of(info, name, "progress") for name in sorted({relative_to, filled_by} - {""})}
        before_N = jnp.full(n, jnp.nan, jnp.float32)
        return ProgressState(init_measured(n), groups, before_N, jnp.int32(-1), jnp.ones(n, bool))

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def draw_all(state):
        return state._replace(drawn=jnp.ones_like(state.drawn))

    def begin_watch(state):
        before_N = jnp.copy(estimate(state.measured, before))  # a copy: no array may be in two fields
        return draw_all(state)._replace(before=before_N, newest=jnp.max(state.measured.step))

    def begin_focus(state):
        loss_N = jnp.where(state.measured.step > state.newest, estimate(state.measured, scores), jnp.nan)
        fall_N = state.before - loss_N
        if filled_by:
            fall_N = fill(fall_N, state.groups[filled_by])
        if relative_to:
            groups = state.groups[relative_to]
            fall_N -= per_block(group_means(fall_N, groups)[0], groups)
        return state._replace(drawn=hardest(fall_N, num_chosen(fall_N.size, keep)))

    functions = (draw_all, *(begin_watch, begin_focus) * reps)

    def begin(state, phase_index):
        return phase_switch(functions, phase_index, state)

    return Schedule(phases, init, fold, begin, drawn_rates, observe_train={scores, before} != {"pass"})
