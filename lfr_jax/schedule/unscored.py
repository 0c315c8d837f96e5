"""What policies that measure nothing have in common: the state, and functions that leave it as it is."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.types import BlockInfo, num_blocks


class DrawnState(NamedTuple):
    """State of a policy that measures nothing."""

    drawn: jax.Array  # bool[N]: the blocks that this phase draws


def init_drawn(info: BlockInfo) -> DrawnState:
    """An `init` for policies that measure nothing: every block is drawn until `begin` says otherwise.

    Args:
      info: of N blocks.

    Returns:
      The state, bool[N].

    Raises:
      ValueError: as of `num_blocks`.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.init_drawn(schedule.BlockInfo(3)).drawn.tolist()
      [True, True, True]
    """
    return DrawnState(jnp.ones(num_blocks(info), bool))


def ignore_losses(state, ids_B, losses_B, step, **extra):
    """An `observe` for policies that measure nothing: the state stays as it is.

    Args:
      state: any.
      ids_B, losses_B, step, extra: as of `Schedule.observe`; not looked at.

    Returns:
      `state`.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.ignore_losses("state", [0, 1], [2.5, 3.5], step=7)
      'state'
    """
    return state


def drawn_rates(state) -> jax.Array:
    """A `rates` for states that mark the blocks to draw.

    Args:
      state: with a field `drawn`, bool[N], such as a `DrawnState`.

    Returns:
      f32[N]: 1 for the blocks marked in `state.drawn`, 0 for the others.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> schedule.drawn_rates(schedule.DrawnState(jnp.array([True, False]))).tolist()
      [1.0, 0.0]
    """
    return state.drawn.astype(jnp.float32)
