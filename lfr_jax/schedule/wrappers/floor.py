"""No block goes out of sight."""

import functools

import jax

from lfr_jax.schedule.arrays.groups import relative
from lfr_jax.schedule.types import Schedule


def floor(schedule: Schedule, share: float = 0.1) -> Schedule:
    r"""Spreads a share of the draws evenly over all blocks, whatever the policy makes of them.

    $$ r'_i = (1 - \text{share})\, \frac{r_i}{\bar r} + \text{share}, \qquad \bar r = \frac1N \sum_j r_j $$

    So every block is drawn at least `share` times as often as under `uniform`. Phases that draw all
    blocks equally often stay as they are. The mean adds up whole numbers, 2**-31 of the
    largest rate each, so that no mesh changes a bit of the result.

    Args:
      schedule: any.
      share: of the draws, 0 to 1; the default is ours.

    Returns:
      The schedule with other rates, its state and all else as before.

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
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, expected a share of the draws: 0 to 1")
    return schedule._replace(rates=lambda state: mixed(schedule.rates(state), share))


@functools.partial(jax.jit, static_argnums=1)
def mixed(rate_N: jax.Array, share: float) -> jax.Array:
    """f32[N]: relative to the mean, `share` of each from the mean itself."""
    return (1 - share) * relative(rate_N) + share
