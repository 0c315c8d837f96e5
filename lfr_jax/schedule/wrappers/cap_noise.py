"""Without the blocks of the highest loss, which are likely noise."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.estimate import estimate
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.checks import DROP, real_number
from lfr_jax.schedule.types import Schedule, num_blocks


class CapNoiseState(NamedTuple):
    """State of a schedule whose noisiest blocks are left out."""

    inner: Any  # the state of the wrapped schedule
    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    noise: jax.Array  # bool[N]: the blocks that this phase must not draw


def cap_noise(schedule: Schedule, top: float = 0.02) -> Schedule:
    r"""Leaves out the blocks of the highest loss, as they are likely noise.

    When a phase begins, the known losses are ranked. With K of them, the ⌊top · K⌋
    highest are not drawn in this phase, whatever the policy says. This holds in all phases.
    Before the first measurement, no block is left out. A block comes back
    when a later measurement puts it below others. Only a scoring pass measures it again, as training does not
    draw it. If only noise remains, nothing is removed. An objective of the policy then holds for the other blocks.

    The wrapper needs no losses beyond those that the policy needs. It keeps the last loss of each
    block. If these are losses of training, it subtracts their trend over steps (see
    `detrend`): else the blocks that were drawn first would count as noise.

    Args:
      schedule: any. One that measures nothing, such as `uniform`, stays as it is.
      top: share of the blocks with a known loss; the default is ours.

    Returns:
      The schedule; its state is a `CapNoiseState`: 9 bytes a block besides the policy's own.

    Raises:
      ValueError: `top` is outside [0, 1).

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.cap_noise(schedule.lfr(reps=1, drop=0.5), top=0.25)
      >>> state = s.observe(s.init(schedule.BlockInfo(4)), jnp.arange(4), jnp.array([2.0, 50.0, 3.0, 4.0]), 2000)
      >>> s.rates(s.begin(state, 1)).tolist()
      [0.0, 0.0, 0.0, 1.0]
    """
    top = real_number("top", top, DROP)

    def init(info):
        n = num_blocks(info)
        return CapNoiseState(schedule.init(info), init_measured(n), jnp.zeros(n, bool))

    def fold(state, ids_B, losses_B, step, **extra):
        inner = schedule.observe(state.inner, ids_B, losses_B, step, **extra)
        return state._replace(inner=inner, measured=observe(state.measured, ids_B, losses_B, step))

    def begin(state, phase_index):
        scores = "detrended" if schedule.observe_train else "train"
        loss_N = estimate(state.measured, scores)
        known_N = ~jnp.isnan(loss_N)
        # A little more than `top`, or float32 would turn 0.29 · 100 into 28.
        k = jnp.floor(jnp.sum(known_N, dtype=jnp.int32) * np.float32(top * (1 + 2**-22))).astype(jnp.int32)
        noise_N = hardest(jnp.where(known_N, loss_N, -jnp.inf), k)
        return state._replace(inner=schedule.begin(state.inner, phase_index), noise=noise_N)

    def rates(state):
        drawn_N = schedule.rates(state.inner)
        capped_N = jnp.where(state.noise, 0.0, drawn_N)
        return jnp.where(jnp.any(capped_N > 0), capped_N, drawn_N)

    def of_inner(function):
        return function and (lambda state, *args, **extra: function(state.inner, *args, **extra))

    return schedule._replace(
        init=init,
        observe=fold,
        begin=begin,
        rates=rates,
        loss_weights=of_inner(schedule.loss_weights),
        objective=of_inner(schedule.objective),
        token_weights=of_inner(schedule.token_weights),
    )
