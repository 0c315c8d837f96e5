"""Blocks come back at growing intervals; a block that is forgotten starts again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import FACTOR, NOT_NEGATIVE, real_number
from lfr_jax.schedule.phases import equal_rounds
from lfr_jax.schedule.types import Schedule, num_blocks
from lfr_jax.schedule.unscored import drawn_rates


class SpacedState(NamedTuple):
    """State of spaced repetition."""

    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    newest: jax.Array  # i32[]: the newest step of all measurements before this round; −1 = none
    before: jax.Array  # f32[N]: the last loss before this round; NaN = never measured
    interval: jax.Array  # i16[N]: rounds from the last repetition to the next; 0 = never measured
    due: jax.Array  # i16[N]: number of the round, from 0, in which the block is to be drawn again
    drawn: jax.Array  # bool[N]: the blocks that this round draws


def spaced_repetition(
    *, rounds: int = 16, round_steps: int = 100, growth: float = 2.5, tolerance: float = 0.05
) -> Schedule:
    r"""Draws the blocks that are due. The longer a block has been remembered, the later it is due again.

    A block is drawn in round t with loss $\ell$, and was drawn before with loss $\ell'$. It is forgotten if
    $\ell > \ell' + \text{tolerance}$. Its interval in rounds, and the round in which it is due again, are

    $$ I \leftarrow \begin{cases} 1 & \text{drawn for the first time, or forgotten} \\
       \lceil \text{growth} \cdot I \rceil & \text{otherwise} \end{cases} \qquad \text{due} = t + I $$

    A round draws all blocks that are due, at equal rates; also those that are overdue or were never measured. If
    none is due, it draws those that are due next. The losses are those of training, which
    cost nothing: for each block, its last loss in the round.

    SuperMemo 2 has such intervals, in days: they start again when an item is forgotten, and grow by a factor
    otherwise. There the second interval is 6, and the factor, 2.5 at first and at least 1.3, changes with the grade of
    each answer. So a block that is never forgotten has the intervals 1, 3, 8, 20, where an item there has 1, 6, 15, 38.
    Amiri et al. found that a neural network forgets as people do, and can be trained so; their delays are others. The
    rest is ours.

    Args:
      rounds: how often the policy decides which blocks are due; ours.
      round_steps: length of a round in steps; ours.
      growth: factor of the interval, at least 1.
      tolerance: by how many nats per token the loss of a block may rise before it counts as forgotten; ours.

    Returns:
      The schedule; its state is a `SpacedState`, of 17 bytes a block. It needs the losses of
      training. Its phases are 'round.1', 'round.2', ...

    Raises:
      ValueError: a number is not positive and whole, there are more than 10,000 rounds, `growth` is below 1,
        or `tolerance` negative or not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.spaced_repetition(rounds=4, growth=2.0)
      >>> state = s.begin(s.init(schedule.BlockInfo(2)), 0)
      >>> for i, losses in enumerate([[4.0, 4.0], [3.0, 4.5]]):  # the second block is forgotten
      ...     state = s.begin(s.observe(state, jnp.arange(2), jnp.array(losses), i), i + 1)
      >>> s.rates(state).tolist()
      [0.0, 1.0]

    References:
      Wozniak 1990, "Optimization of learning", section 3.2 (SuperMemo 2).

      Amiri, Miller, Savova 2017, "Repeat before Forgetting: Spaced Repetition for Efficient and Effective Training of
      Neural Networks", which we have not read.
    """
    phases = equal_rounds(rounds, round_steps, most=10_000)
    growth, tolerance = real_number("growth", growth, FACTOR), real_number("tolerance", tolerance, NOT_NEGATIVE)

    def init(info):
        n = num_blocks(info)
        at_once = [jnp.zeros(n, jnp.int16) for _ in range(2)]
        return SpacedState(
            init_measured(n), jnp.int32(-1), jnp.full(n, jnp.nan, jnp.float32), *at_once, jnp.ones(n, bool)
        )

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        met_N = state.measured.step > state.newest
        # If `before` is NaN, the block does not count as forgotten, but its interval is 0, and becomes 1.
        forgotten_N = state.measured.loss > state.before + np.float32(tolerance)
        grown_N = jnp.ceil(state.interval * np.float32(growth))
        # No interval has to be longer than the run.
        grown_N = jnp.clip(jnp.where(forgotten_N, 1, grown_N), 1, len(phases)).astype(jnp.int16)
        interval_N = jnp.where(met_N, grown_N, state.interval)
        due_N = jnp.where(met_N, interval_N + jnp.asarray(phase_index - 1, jnp.int16), state.due)
        drawn_N = due_N <= jnp.maximum(jnp.min(due_N), phase_index)
        newest = jnp.max(state.measured.step)
        before_N = jnp.where(met_N, state.measured.loss, state.before)
        return SpacedState(state.measured, newest, before_N, interval_N, due_N, drawn_N)

    return Schedule(phases, init, fold, begin, drawn_rates, observe_train=True)
