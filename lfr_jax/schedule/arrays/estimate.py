"""From what was measured of blocks, now or long ago or never, to one loss for each."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.groups import Groups, at, fill, group_means
from lfr_jax.schedule.arrays.observe import Measured
from lfr_jax.schedule.arrays.trend import detrend

Scores = Literal["pass", "train", "detrended", "mixed"]
Unmeasured = Literal["hardest", "domain", "cluster"]


def estimate(measured: Measured, scores: Scores, groups: Groups | None = None) -> jax.Array:
    r"""What is known of each block's loss when a phase begins.

    - "pass": the loss that the newest scoring pass measured: one of the last step at which any
      was measured, as a pass has one step, and one set of parameters.
    - "train": the last loss, whenever it was measured.
    - "detrended": the last loss less its trend over steps (see `detrend`), in
      min(64, max(1, ⌊N/64⌋)) bins: about 64 blocks or more in each. The trend is that of the
      blocks drawn: after a phase that drew hard ones alone, theirs, which hides that they are
      hard. So where there are groups, the trend is that of the losses less their groups' means.
    - "mixed": the same, but where there are groups, losses older than the newest pass are
      moved and shrunk to what it found in their group (see `shrunk`).

    Args:
      measured: losses and steps of N blocks.
      scores: which of these.
      groups: of the N blocks; one without a loss then gets the mean of its group.

    Returns:
      f32[N], nats per token (less the trend); NaN where not known.
    """
    fresh_N = measured.step == jnp.max(measured.step)
    if scores == "pass":
        loss_N = jnp.where(fresh_N, measured.loss, jnp.nan)
    elif scores == "train":
        loss_N = measured.loss
    else:
        num_bins = min(64, max(1, measured.loss.shape[0] // 64))
        centre_N = 0.0 if groups is None else at(group_means(measured.loss, groups)[0], groups)
        loss_N = detrend(measured._replace(loss=measured.loss - centre_N), num_bins) + centre_N
    if groups is None:
        return loss_N
    return fill(shrunk(loss_N, fresh_N, groups) if scores == "mixed" else loss_N, groups)


@jax.jit  # the same bits, whether or not it is called inside of a jit
def shrunk(x_N: jax.Array, fresh_N: jax.Array, groups: Groups) -> jax.Array:
    r"""Old numbers as estimates of what would be measured now, from a fresh sample of some blocks.

    Let $f_g$ and $o_g$ be the means of the fresh and of the old numbers in group g. An old
    number is taken to be the present one, plus what the group has gained since, plus noise. So

    $$ \hat x_i = f_g + \lambda (x_i - o_g), \qquad \lambda = \min(1, v_f / v_o) $$

    with $v$ the variances within groups. Fresh numbers stay as they are; in a group that has no
    fresh one, $f_g = o_g$. This is ours: $\lambda$ is the reliability of the old numbers under that model.

    Args:
      x_N: f32[N]; NaN, where nothing is known, stays NaN.
      fresh_N: bool[N]: the numbers that need no change.
      groups: of the N blocks.

    Returns:
      f32[N].

    Examples:
      Of one group, fresh numbers have mean 2 and variance 2, old ones mean 4 and variance 8:

      >>> groups = Groups(jnp.zeros(4, jnp.int32), jnp.array([4]))
      >>> shrunk(jnp.array([1.0, 3.0, 2.0, 6.0]), jnp.array([True, True, False, False]), groups).tolist()
      [1.0, 3.0, 1.5, 2.5]
    """
    fresh_G, old_G = (group_means(jnp.where(of_kind, x_N, jnp.nan), groups)[0] for of_kind in (fresh_N, ~fresh_N))
    now_N = at(jnp.where(jnp.isnan(fresh_G), old_G, fresh_G), groups)
    deviation_N = x_N - jnp.where(fresh_N, now_N, at(old_G, groups))
    fresh, old = (variance_within(jnp.where(of_kind, deviation_N, jnp.nan), groups) for of_kind in (fresh_N, ~fresh_N))
    reliability = jnp.where(old > fresh, fresh / old, 1.0)  # 1 as well where either is NaN
    return jnp.where(fresh_N, x_N, now_N + reliability * deviation_N)


def variance_within(deviation_N: jax.Array, groups: Groups) -> jax.Array:
    """f32[]: the variance about the groups' means, NaN left out; NaN if no group has two numbers."""
    squares_G, counts_G = group_means(jnp.square(deviation_N), groups)
    total = jnp.sum(jnp.where(counts_G > 0, squares_G * counts_G, 0.0))
    return total / jnp.sum(jnp.maximum(counts_G - 1, 0))


def checked(name: str, value: str, of) -> str:
    """`value`, if it is one of a Literal's."""
    if value not in get_args(of):
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, get_args(of)))}")
    return value
