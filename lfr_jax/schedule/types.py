"""What a schedule is: phases, and pure functions over a carried pytree."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

ScheduleState = Any
"""A policy's own NamedTuple of arrays: all that it remembers, and nothing else.

Keep it in the train state: it is then jitted, donated, checkpointed and resharded with the params.
Each field's comment gives its shape and dtype. Per-block fields have N entries. At least one field
is per block, even if the policy remembers nothing: `rates` gets the state alone and has to know N.
"""


class Phase(NamedTuple):
    """A stretch of training steps during which the draw rates do not change.

    Phases are static: the policy's arguments decide them, before any data is seen.
    """

    name: str  # 'learn', 'focus', 'review', ...
    start: int  # first step (inclusive)
    stop: int  # last step (exclusive)
    score: bool = False  # before `begin`, the trainer measures the loss of all blocks (a scoring pass)


class BlockInfo(NamedTuple):
    """What is known about the N blocks of a corpus before training.

    Losses are mean negative log-likelihoods in nats per token, under models that were trained before.
    """

    num_blocks: int  # N, static
    domain: jax.Array | np.ndarray | None = None  # i32[N]: number of the block's source
    cluster: jax.Array | np.ndarray | None = None  # i32[N]: number of the block's cluster
    length: jax.Array | np.ndarray | None = (
        None  # i32[N]: index of the block's length, from the longest; if lengths differ
    )
    ref_loss: jax.Array | np.ndarray | None = None  # f32[N]: under a reference model
    weak_loss: jax.Array | np.ndarray | None = None  # f32[N]: under the weaker of two references
    strong_loss: jax.Array | np.ndarray | None = None  # f32[N]: under the stronger of two references


class Schedule(NamedTuple):
    """Which blocks to draw, and when to decide again: what every policy returns.

    A trainer calls `init` once. For each phase it calls `begin`, then draws by `rates` until the
    phase stops. The losses that it measures go to `observe`. All are pure functions, and work
    under `jax.jit`, `jax.vmap` and `jax.lax.scan`. So does `begin` with a traced number of the
    phase: it is one program for all phases.

    Three fields say what the schedule needs of its trainer; `check_trainer` checks all of them:
    `Phase.score`, `observe_train`, and `loss_weights`, if it is not None.

    `rates` depends on what `init` or `begin` wrote, never on `observe`. So the draws of
    a phase can be rebuilt from a state that was saved in the middle of it.
    """

    phases: tuple[Phase, ...]
    # block_info -> state. `block_info.num_blocks` is a Python int.
    init: Callable[[BlockInfo], ScheduleState]
    # (state, ids i32[B] or u32[B], losses f32[B], step i32[]) -> state: record measured mean NLL (nats per token).
    observe: Callable[[ScheduleState, jax.Array, jax.Array, jax.Array], ScheduleState]
    # (state, phase_index) -> state: enter phases[phase_index], a Python int or a traced i32[]; set the rates.
    begin: Callable[[ScheduleState, int | jax.Array], ScheduleState]
    # state -> f32[N]: relative draw rate of each block; 0 = not drawn.
    rates: Callable[[ScheduleState], jax.Array]
    # (state, ids i32[B], losses f32[B]) -> f32[B]: the trainer multiplies each block's loss by it. `losses` are those
    # of the same forward pass, behind a stop_gradient. None: the policy does not weigh losses.
    loss_weights: Callable[[ScheduleState, jax.Array, jax.Array], jax.Array] | None = None
    # At every step the trainer passes the losses of the training forward pass to `observe`.
    observe_train: bool = False


def check_trainer(
    schedule: Schedule, *, scores_blocks: bool = False, observes_training: bool = False, weighs_losses: bool = False
) -> None:
    """Raises unless a trainer does all that a schedule needs. Call it once, before training.

    Without it, a policy whose needs are not met trains as another policy and reports no error:
    `linupper` without its weights is `uniform`.

    Args:
      schedule: the one to train with.
      scores_blocks: the trainer measures all blocks, or a sample, where `Phase.score` is true, before `begin`.
      observes_training: the trainer calls `observe` with the losses of every training step.
      weighs_losses: the trainer multiplies each block's loss by `loss_weights`.

    Returns:
      None.

    Raises:
      ValueError: the schedule needs what the trainer does not do. The message names each such need.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.check_trainer(schedule.lfr(scores="train"), observes_training=True)
      >>> schedule.check_trainer(schedule.linupper(), observes_training=True)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: ... multiply each block's loss by schedule.loss_weights(state, ids, losses)...
    """
    scored = [f"'{phase.name}'" for phase in schedule.phases if phase.score]
    scoring = ", ".join(scored[:4]) + (f", ... ({len(scored)} phases)" if len(scored) > 4 else "")
    needs = [
        (bool(scoring), scores_blocks, f"measure the blocks before it begins {scoring}", "scores_blocks"),
        (schedule.observe_train, observes_training, "observe the losses of every training step", "observes_training"),
        (
            schedule.loss_weights is not None,
            weighs_losses,
            "multiply each block's loss by schedule.loss_weights(state, ids, losses)",
            "weighs_losses",
        ),
    ]
    missing = [f"{what} (then pass {name}=True)" for needed, done, what, name in needs if needed and not done]
    if missing:
        raise ValueError(f"this trainer does not do what the schedule needs: {'; '.join(missing)}")


class MissingInfo(ValueError):
    """A policy needs the array `name` of `BlockInfo`, and it is None."""

    def __init__(self, name: str, policy: str):
        super().__init__(f"{policy} needs BlockInfo.{name}, one number for each block; found None")
        self.name = name


def num_blocks(info: BlockInfo) -> int:
    """N, after a check of all of `info`. Every policy's `init` calls it.

    Args:
      info: what a trainer passes to `init`.

    Returns:
      `info.num_blocks`.

    Raises:
      ValueError: there is no block, or an array has another shape than `(info.num_blocks,)`.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.num_blocks(schedule.BlockInfo(3, domain=[0, 0, 1]))
      3
    """
    n = operator.index(info.num_blocks)
    if not 0 < n < 2**32:
        raise ValueError(
            f"BlockInfo.num_blocks is {n}, expected 1 to 2**32 - 1: no phase can draw from a corpus without blocks"
        )
    for name, array in zip(info._fields[1:], info[1:]):
        if array is not None and np.shape(array) != (n,):
            raise ValueError(
                f"BlockInfo.{name} has shape {np.shape(array)}, expected ({n},): one entry for each of "
                f"num_blocks={n} blocks"
            )
    return n


def required(info: BlockInfo, name: str, policy: str) -> jax.Array | np.ndarray:
    """An array of `BlockInfo` that a policy cannot do without.

    Args:
      info: what a trainer passes to `init`.
      name: of the array, such as "ref_loss".
      policy: its name, for the error.

    Returns:
      `BlockInfo.<name>`, [N].

    Raises:
      MissingInfo: it is None.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.required(schedule.BlockInfo(2, ref_loss=[3.5, 4.5]), "ref_loss", policy="mine")
      [3.5, 4.5]
    """
    array = getattr(info, name)
    if array is None:
        raise MissingInfo(name, policy)
    return array
