"""Every block is drawn now and then."""

import functools

import jax

from lfr_jax.schedule.arrays.groups import relative
from lfr_jax.schedule.checks import SHARE, real_number
from lfr_jax.schedule.types import Schedule


def floor(schedule: Schedule, share: float = 0.1) -> Schedule:
    r"""Spreads a share of the draws evenly over all blocks, whatever the policy says.

    $$ r'_i = (1 - \text{share})\, \frac{r_i}{\bar r} + \text{share}, \qquad \bar r = \frac1N \sum_j r_j $$

    So every block is drawn at least `share` times as often as under `uniform`. Phases that draw all
    blocks equally often do not change. The mean is a sum of integers, in units of 2**-31 of the
    largest rate, so it has the same bits on any mesh.

    Args:
      schedule: any.
      share: of the draws, 0 to 1; the default is ours.

    Returns:
      The schedule with other rates. Its state and its objective do not change.

    Raises:
      ValueError: `share` is outside [0, 1].

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.floor(schedule.lfr(reps=1, drop=0.5), share=0.25)
      >>> state = s.observe(s.init(schedule.BlockInfo(4)), jnp.arange(4), jnp.array([2.0, 5.0, 3.0, 4.0]), 2000)
      >>> s.rates(s.begin(state, 1)).tolist()
      [0.25, 1.75, 0.25, 1.75]
    """
    share = real_number("share", share, SHARE)
    return schedule._replace(rates=lambda state: mixed(schedule.rates(state), share))


@functools.partial(jax.jit, static_argnums=1)
def mixed(rate_N: jax.Array, share: float) -> jax.Array:
    """f32[N]: the rates divided by their mean, and pulled towards 1 by `share`."""
    return (1 - share) * relative(rate_N) + share
