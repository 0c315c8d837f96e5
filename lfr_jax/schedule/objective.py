"""Weights that make the training loss what `Schedule.objective` says, at whatever rates the blocks are drawn."""

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.groups import Groups, group_means, relative
from lfr_jax.schedule.arrays.lookup import take_blocks
from lfr_jax.schedule.types import Schedule, ScheduleState


def objective_weights(schedule: Schedule, state: ScheduleState, ids_B: jax.Array | None = None) -> jax.Array:
    r"""The factors on the losses of blocks that undo their draw rates: importance weights.

    With the rates r and the objective o of the schedule, sums over the blocks that are drawn ($r_j > 0$):

    $$ w_i = \frac{o_i / \sum_j o_j}{r_i / \sum_j r_j} $$

    Draws at the rates r have the mean weight 1, and the expected weighted loss is $\sum_i o_i \ell_i / \sum_j o_j$.
    Blocks that are never drawn can have no part in it. If all of o is 0, or there is no objective, each weight is 1.

    The sums are of integers, so they have the same bits on any mesh. They cost O(N), and change only where a phase
    begins. So a trainer of many blocks calls this without ids once for each phase, and in each step takes the weights
    of its batch out of the array by `take_blocks`.

    Args:
      schedule: any.
      state: its state, after `begin`. It may be sharded.
      ids_B: i32[B] or u32[B]; None: all blocks.

    Returns:
      f32[B], or f32[N] of all blocks; 0 for blocks that are not drawn, and for ids outside 0..N−1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.infobatch(drop=0.75)  # its objective is that all blocks count alike
      >>> state = s.observe(s.init(schedule.BlockInfo(4)), jnp.arange(4), jnp.array([2.0, 6.0, 3.0, 5.0]), 9)
      >>> state = s.begin(state, 1)
      >>> s.rates(state).tolist(), schedule.objective_weights(s, state, jnp.array([0, 1])).tolist()
      ([0.25, 1.0, 0.25, 1.0], [2.5, 0.625])

    References:
      Kahn and Marshall 1953, "Methods of Reducing Sample Size in Monte Carlo Computations" (importance sampling).
    """
    rate_N = schedule.rates(state)
    weight_N = jnp.ones_like(rate_N) if schedule.objective is None else weights(rate_N, schedule.objective(state))
    return weight_N if ids_B is None else take_blocks(weight_N, ids_B)


def weight_variance(schedule: Schedule, state: ScheduleState) -> jax.Array:
    r"""The variance of `objective_weights` over the draws of a phase: what an objective costs.

    $$ v = \sum_i p_i w_i^2 - 1, \qquad p_i = r_i / \sum_j r_j $$

    The noise that unequal weights add to a gradient is about that of a batch that is smaller by the factor
    1 / (1 + v), Kish's effective sample size.

    Args:
      schedule: any.
      state: its state, after `begin`. It may be sharded.

    Returns:
      f32[]; 0 without an objective. The same bits on any mesh.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.infobatch(drop=0.75)
      >>> state = s.observe(s.init(schedule.BlockInfo(4)), jnp.arange(4), jnp.array([2.0, 6.0, 3.0, 5.0]), 9)
      >>> schedule.weight_variance(s, s.begin(state, 1)).tolist()  # 0.2 · 2.5² + 0.8 · 0.625² − 1
      0.5625

    References:
      Kish 1965, "Survey Sampling", section 11.2C.
    """
    return variance(schedule.rates(state), objective_weights(schedule, state))


@jax.jit  # the same bits, whether or not it is called inside of a jit
def weights(rate_N: jax.Array, objective_N: jax.Array) -> jax.Array:
    """f32[N]: the weights of all blocks."""
    rate_N = relative(rate_N)
    drawn_N = rate_N > 0
    objective_N = jnp.where(drawn_N, objective_N.astype(jnp.float32), 0.0)
    weight_N = relative(objective_N) / jnp.where(drawn_N, rate_N, 1.0)
    weight_N = jnp.minimum(weight_N, jnp.finfo(jnp.float32).max)  # of a block that is drawn once in 10**38 draws
    return jnp.where(jnp.any(objective_N > 0), weight_N, 1.0)


@jax.jit
def variance(rate_N: jax.Array, weight_N: jax.Array) -> jax.Array:
    """f32[]: of the weights, at the rates."""
    everything = Groups(jnp.zeros_like(rate_N, jnp.int32), jnp.array([rate_N.shape[0]]))
    means, _ = group_means(relative(rate_N) * jnp.square(weight_N), everything)
    return jnp.maximum(means[0] - 1.0, 0.0)
