"""What policies that measure nothing share: the state, and functions that leave it as it is."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.types import num_blocks


class DrawnState(NamedTuple):
    """State of a policy that measures nothing."""

    drawn: jax.Array  # bool[N]: the blocks that this phase draws


def init(info) -> DrawnState:
    """All blocks drawn."""
    return DrawnState(jnp.ones(num_blocks(info), bool))


def ignore(state: DrawnState, ids_B, losses_B, step) -> DrawnState:
    """An `observe` that learns nothing."""
    return state


def rates(state) -> jax.Array:
    """f32[N]: 1 for the blocks marked in `state.drawn`, 0 for the others."""
    return state.drawn.astype(jnp.float32)
