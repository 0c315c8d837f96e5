"""One loss for each block, from measurements of different ages."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.groups import Groups, fill, group_means, per_block
from lfr_jax.schedule.arrays.observe import Measured
from lfr_jax.schedule.arrays.trend import detrend

Scores = Literal["pass", "train", "detrended", "mixed"]
Unmeasured = Literal["hardest", "domain", "cluster"]


def estimate(measured: Measured, scores: Scores, groups: Groups | None = None) -> jax.Array:
    r"""Estimates each block's loss at the moment when a phase begins.

    - "pass": the loss in the newest scoring pass. A pass has one step and one set of parameters,
      so these are the losses that were measured at the newest step.
    - "train": the last loss, whenever it was measured.
    - "detrended": the last loss minus the trend over steps (see `detrend`), in
      min(64, max(1, ⌊N/64⌋)) bins: about 64 blocks or more in each. The trend follows the blocks that
      were drawn. After a phase that drew only hard blocks it is higher, which hides that they are
      hard. So with groups, the group's mean is subtracted before the trend is computed, and added again after.
    - "mixed": as "detrended". With groups, a loss that is older than the newest pass is shifted and
      shrunk towards what the pass measured in its group (see `shrunk`).

    Args:
      measured: losses and steps of N blocks.
      scores: "pass", "train", "detrended" or "mixed".
      groups: of the N blocks. With them, a block without a loss gets the mean of its group.

    Returns:
      f32[N], nats per token (minus the trend); NaN where nothing is known.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> measured = schedule.init_measured(3)
      >>> measured = schedule.observe(measured, jnp.array([0, 1]), jnp.array([7.0, 9.0]), step=4)
      >>> measured = schedule.observe(measured, jnp.array([0]), jnp.array([5.0]), step=8)
      >>> schedule.estimate(measured, "train").tolist(), schedule.estimate(measured, "pass").tolist()
      ([5.0, 9.0, nan], [5.0, nan, nan])
      >>> one_group = schedule.Groups(jnp.zeros(3, jnp.int32), jnp.array([3]))
      >>> schedule.estimate(measured, "train", one_group).tolist()
      [5.0, 9.0, 7.0]
    """
    fresh_N = measured.step == jnp.max(measured.step)
    if scores == "pass":
        loss_N = jnp.where(fresh_N, measured.loss, jnp.nan)
    elif scores == "train":
        loss_N = measured.loss
    else:
        num_bins = min(64, max(1, measured.loss.shape[0] // 64))
        centre_N = 0.0 if groups is None else per_block(group_means(measured.loss, groups)[0], groups)
        loss_N = detrend(measured._replace(loss=measured.loss - centre_N), num_bins) + centre_N
    if groups is None:
        return loss_N
    return fill(shrunk(loss_N, fresh_N, groups) if scores == "mixed" else loss_N, groups)


@jax.jit  # the same bits, whether or not it is called inside of a jit
def shrunk(x_N: jax.Array, fresh_N: jax.Array, groups: Groups) -> jax.Array:
    r"""Estimates what old measurements would be now, from fresh measurements of other blocks.

    Let $f_g$ and $o_g$ be the means of the fresh and of the old numbers in group g. The model: an old
    number is the present one, plus what the group has gained since, plus noise. Then

    $$ \hat x_i = f_g + \lambda (x_i - o_g), \qquad \lambda = \min(1, v_f / v_o) $$

    with $v$ the variances within groups. Fresh numbers stay as they are. In a group without
    fresh numbers, $f_g = o_g$. This is ours; $\lambda$ is the reliability of the old numbers under that model.

    Args:
      x_N: f32[N]; NaN stays NaN.
      fresh_N: bool[N]: which numbers are fresh.
      groups: of the N blocks.

    Returns:
      f32[N].

    Examples:
      One group: the fresh numbers have mean 2 and variance 2, the old ones mean 4 and variance 8.

      >>> groups = Groups(jnp.zeros(4, jnp.int32), jnp.array([4]))
      >>> shrunk(jnp.array([1.0, 3.0, 2.0, 6.0]), jnp.array([True, True, False, False]), groups).tolist()
      [1.0, 3.0, 1.5, 2.5]
    """
    fresh_G, old_G = (group_means(jnp.where(of_kind, x_N, jnp.nan), groups)[0] for of_kind in (fresh_N, ~fresh_N))
    now_N = per_block(jnp.where(jnp.isnan(fresh_G), old_G, fresh_G), groups)
    deviation_N = x_N - jnp.where(fresh_N, now_N, per_block(old_G, groups))
    fresh, old = (variance_within(jnp.where(of_kind, deviation_N, jnp.nan), groups) for of_kind in (fresh_N, ~fresh_N))
    reliability = jnp.where(old > fresh, fresh / old, 1.0)  # 1 as well where either is NaN
    return jnp.where(fresh_N, x_N, now_N + reliability * deviation_N)


def variance_within(deviation_N: jax.Array, groups: Groups) -> jax.Array:
    """f32[]: the variance around the means of the groups; NaN if no group has two numbers. It ignores NaN."""
    squares_G, counts_G = group_means(jnp.square(deviation_N), groups)
    total = jnp.sum(jnp.where(counts_G > 0, squares_G * counts_G, 0.0))
    return total / jnp.sum(jnp.maximum(counts_G - 1, 0))


def one_of(name: str, value: str, literal) -> None:
    """Raises ValueError unless `value` is one of a Literal's values."""
    if value not in get_args(literal):
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, get_args(literal)))}")
