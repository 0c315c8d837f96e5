"""What a schedule is: phases, and pure functions over a carried pytree."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

ScheduleState = Any
"""A policy's own NamedTuple of arrays: all that it remembers, and nothing else.

It is part of the train state, so it is jitted, donated, checkpointed and resharded with it.
Each field's comment gives its shape and dtype. Per-block fields have N entries; a policy
with nothing to remember still needs one of them, since `rates` is told only the state.
"""


class Phase(NamedTuple):
    """A stretch of training during which the rates stand still.

    Phases are static: they follow from the policy's arguments, before any data is seen.
    """

    name: str  # 'learn', 'focus', 'review', ...
    start: int  # first step (inclusive)
    stop: int  # last step (exclusive)
    score: bool = False  # a scoring pass over all blocks is wanted on entry, before `begin`


class BlockInfo(NamedTuple):
    """What is known of the N blocks of a corpus before training.

    Losses are mean negative log-likelihoods in nats per token, under models trained earlier.
    """

    num_blocks: int  # N, static
    domain: jax.Array | np.ndarray | None = None  # i32[N]: number of the block's source
    cluster: jax.Array | np.ndarray | None = None  # i32[N]: number of the block's cluster
    length: jax.Array | np.ndarray | None = None  # i32[N]: number of the block's length, where there are several
    ref_loss: jax.Array | np.ndarray | None = None  # f32[N]: under a reference model
    weak_loss: jax.Array | np.ndarray | None = None  # f32[N]: under the weaker of two references
    strong_loss: jax.Array | np.ndarray | None = None  # f32[N]: under the stronger of two references


class Schedule(NamedTuple):
    """A policy: which blocks to draw, and when to decide again.

    A trainer calls `init` once, then for each phase `begin`, and draws from `rates` until
    the phase stops. Whatever losses it measures go to `observe`. All are pure functions and
    work under `jax.jit`, `jax.vmap` and `jax.lax.scan`.

    `rates` depends only on what `init` or `begin` wrote, never on `observe`. So the draws of
    a phase can be rebuilt from a state that was saved in the middle of it.
    """

    phases: tuple[Phase, ...]
    # block_info -> state. Call it with concrete `block_info.num_blocks`.
    init: Callable[[BlockInfo], ScheduleState]
    # (state, ids i32[B] or u32[B], losses f32[B], step i32[]) -> state: fold in measured mean NLL (nats per token).
    observe: Callable[[ScheduleState, jax.Array, jax.Array, jax.Array], ScheduleState]
    # (state, phase_index) -> state: enter phases[phase_index], a Python int; set the rates.
    begin: Callable[[ScheduleState, int], ScheduleState]
    # state -> f32[N]: relative draw rate of each block; 0 = not drawn.
    rates: Callable[[ScheduleState], jax.Array]
    # (state, ids i32[B], losses f32[B]) -> f32[B]: factor on each block's loss, where a policy
    # reweights it; `losses` are those of this forward pass, and no gradient flows through them.
    loss_weights: Callable[[ScheduleState, jax.Array, jax.Array], jax.Array] | None = None
    # The losses of the training forward pass are to be passed to `observe` at every step.
    observe_train: bool = False


class MissingInfo(ValueError):
    """A policy needs the array `name` of BlockInfo, and it was not given."""

    def __init__(self, name: str, policy: str):
        super().__init__(f"{policy} needs BlockInfo.{name}, one number for each block; found None")
        self.name = name


def num_blocks(info: BlockInfo) -> int:
    """N, after checking that there are blocks and that every array in `info` has N entries.

    Raises:
      ValueError: no block at all, or an array of another shape than `(info.num_blocks,)`.
    """
    n = operator.index(info.num_blocks)
    if not 0 < n < 2**32:
        raise ValueError(
            f"BlockInfo.num_blocks is {n}, expected 1 to 2**32 - 1: with no block, no phase has any to keep"
        )
    for name, array in zip(info._fields[1:], info[1:]):
        if array is not None and np.shape(array) != (n,):
            raise ValueError(
                f"BlockInfo.{name} has shape {np.shape(array)}, expected ({n},): one entry for each of "
                f"num_blocks={n} blocks"
            )
    return n


def required(info: BlockInfo, name: str, policy: str) -> jax.Array | np.ndarray:
    """`BlockInfo.<name>`.

    Raises:
      MissingInfo: it was not given.
    """
    array = getattr(info, name)
    if array is None:
        raise MissingInfo(name, policy)
    return array
