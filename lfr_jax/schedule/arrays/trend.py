"""Removing the trend of training losses over steps."""

import functools

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.groups import means_of
from lfr_jax.schedule.arrays.observe import Measured
from lfr_jax.schedule.arrays.shards import on_shards


def detrend(measured: Measured, num_bins: int) -> jax.Array:
    r"""The losses minus the mean loss of the blocks that were measured at about the same step.

    Training losses fall as the model learns, so the blocks that were drawn first look
    hardest. Let $s_0$ and $s_1$ be the first and last step of any measurement. The steps between are cut
    into `num_bins` bins of equal width, and block i falls into bin

    $$ b_i = \lfloor (s_i - s_0)\, \text{num\_bins} / (s_1 - s_0 + 1) \rfloor $$

    Let $c_b$ be the mean step and $m_b$ the mean loss in bin b, and T the piecewise linear
    function through the points $(c_b, m_b)$ of bins that are not empty, constant before the
    first point and after the last. The result is $\ell_i - T(s_i)$. The order of the blocks does not
    matter.

    Args:
      measured: losses and steps of N blocks.
      num_bins: static. Far fewer than the blocks, since each block is part of its own bin's mean.

    Returns:
      f32[N], nats per token; NaN where never measured.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> known = schedule.init_measured(4)
      >>> known = schedule.observe(known, jnp.array([0, 1]), jnp.array([7.0, 9.0]), 0)
      >>> known = schedule.observe(known, jnp.array([2, 3]), jnp.array([5.0, 3.0]), 9)
      >>> schedule.detrend(known, num_bins=2).tolist()
      [-1.0, 1.0, 1.0, -1.0]
    """
    return residuals(measured, num_bins)


@functools.partial(jax.jit, static_argnames="num_bins")  # or every call outside a jit would compile again
def residuals(measured: Measured, num_bins: int) -> jax.Array:
    """f32[N]: the arithmetic of `detrend`."""
    loss_N, step_N = measured.loss, measured.step
    known_N = ~jnp.isnan(loss_N)
    first = jnp.min(step_N, where=known_N, initial=jnp.iinfo(jnp.int32).max)
    last = jnp.max(step_N, where=known_N, initial=-1)
    age_N = jnp.where(known_N, step_N - first, 0).astype(jnp.float32)
    bin_N = (age_N * (num_bins / (last - first + 1).astype(jnp.float32))).astype(jnp.int32)
    bin_N = jnp.where(known_N, jnp.minimum(bin_N, num_bins - 1), num_bins)
    age_M, count_M = means_of(age_N, bin_N, num_bins)
    loss_M, _ = means_of(loss_N, bin_N, num_bins)
    # An empty bin repeats the point before it; the first bin is never empty.
    filled_M = jax.lax.cummax(jnp.where(count_M > 0, jnp.arange(num_bins), 0))

    def residual(_, blocks, points):
        age_N, loss_N = blocks
        return loss_N - jnp.interp(age_N, *points)

    return on_shards(residual, (age_N, loss_N), (age_M[filled_M], loss_M[filled_M]))
