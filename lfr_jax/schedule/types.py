"""What a schedule is: phases, and pure functions over a carried pytree."""

import operator
from collections.abc import Callable, Mapping
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


Column = jax.Array | np.ndarray
LOSSES = ("ref_loss", "weak_loss", "strong_loss")  # columns that may be given and read by name
RESERVED = ("num_blocks", "domain", "cluster", "length", "columns", "documents", "phase")  # mean something else


class BlockInfoFields(NamedTuple):
    """The fields of `BlockInfo`."""

    num_blocks: int  # N, static
    domain: Column | None = None  # i32[N]: number of the block's source
    cluster: Column | None = None  # i32[N]: number of the block's cluster
    length: Column | None = None  # i32[N]: index of the block's length, from the longest; if lengths differ
    columns: Mapping[str, Column] = {}  # f32[N] or i32[N] each: anything else, by name
    # (block i32[M], document i32[M], tokens i32[M]): what each block has of each document, sorted by block
    documents: tuple[Column, Column, Column] | None = None


class BlockInfo(BlockInfoFields):
    """What is known about the N blocks of a corpus before training.

    `columns` holds numbers of any meaning by name, such as a quality score; policies read them by `required`. Three
    names have a meaning: mean negative log-likelihoods in nats per token, under models that were trained before.
    They may be given and read like fields: "ref_loss" (of a reference model), "weak_loss" and "strong_loss" (of the
    weaker and the stronger of two).

    Args:
      num_blocks, domain, cluster, length, columns, documents: see `BlockInfoFields`.
      ref_loss, weak_loss, strong_loss: f32[N], columns of these names.

    Examples:
      >>> from lfr_jax import schedule
      >>> info = schedule.BlockInfo(2, ref_loss=[3.5, 4.5], columns={"quality": [0.25, 0.5]})
      >>> info.ref_loss, info.weak_loss, sorted(info.columns)
      ([3.5, 4.5], None, ['quality', 'ref_loss'])
    """

    __slots__ = ()

    def __new__(cls, num_blocks, domain=None, cluster=None, length=None, columns=None, documents=None, **losses):
        if unknown := sorted(set(losses) - set(LOSSES)):
            raise TypeError(f"BlockInfo has no field {unknown[0]!r}: give it as columns={{{unknown[0]!r}: ...}}")
        given = {name: array for name, array in losses.items() if array is not None}
        return super().__new__(cls, num_blocks, domain, cluster, length, {**(columns or {}), **given}, documents)

    def _replace(self, **changes):
        columns = dict(changes.pop("columns", self.columns))
        columns |= {name: changes.pop(name) for name in LOSSES if name in changes}
        return super()._replace(columns={name: x for name, x in columns.items() if x is not None}, **changes)

    ref_loss = property(lambda self: self.columns.get("ref_loss"))
    weak_loss = property(lambda self: self.columns.get("weak_loss"))
    strong_loss = property(lambda self: self.columns.get("strong_loss"))


class Schedule(NamedTuple):
    """Which blocks to draw, and when to decide again: what every policy returns.

    A trainer calls `init` once. For each phase it calls `begin`, then draws by `rates` until the
    phase stops. The losses that it measures go to `observe`. All are pure functions, and work
    under `jax.jit`, `jax.vmap` and `jax.lax.scan`. So does `begin` with a traced number of the
    phase: it is one program for all phases.

    Some fields say what the schedule needs of its trainer; `check_trainer` checks all of them: `Phase.score`,
    `observe_train`, `extra`, and `loss_weights`, `objective` and `token_weights`, if they are not None.

    `rates` and `objective` depend on what `init` or `begin` wrote, never on `observe`. So the draws of
    a phase can be rebuilt from a state that was saved in the middle of it.

    Where weights are meant to undo unequal draws, let the policy have an `objective`, and not `loss_weights` of its
    own: a wrapper may change the rates, and only `objective_weights` sees those that the trainer draws by.
    """

    phases: tuple[Phase, ...]
    # block_info -> state. `block_info.num_blocks` is a Python int.
    init: Callable[[BlockInfo], ScheduleState]
    # (state, ids i32[B] or u32[B], losses f32[B], step i32[], **extra) -> state: record measured mean NLL (nats per
    # token), and the signals that `extra` names.
    observe: Callable[..., ScheduleState]
    # (state, phase_index) -> state: enter phases[phase_index], a Python int or a traced i32[]; set the rates.
    begin: Callable[[ScheduleState, int | jax.Array], ScheduleState]
    # state -> f32[N]: relative draw rate of each block; 0 = not drawn.
    rates: Callable[[ScheduleState], jax.Array]
    # (state, ids i32[B], losses f32[B]) -> f32[B]: the trainer multiplies each block's loss by it. `losses` are those
    # of the same forward pass, behind a stop_gradient. For rules within a batch. None: there is none.
    loss_weights: Callable[[ScheduleState, jax.Array, jax.Array], jax.Array] | None = None
    # At every step the trainer passes the losses of the training forward pass to `observe`.
    observe_train: bool = False
    # state -> f32[N]: what each block should count in the training loss, in expectation and relative to others (any
    # scale), however often it is drawn. The trainer multiplies each block's loss by `objective_weights` too. All 0:
    # this phase has none. None: no phase has one; a block counts as often as it is drawn.
    objective: Callable[[ScheduleState], jax.Array] | None = None
    # (state, ids i32[B], token_losses f32[B, T], **extra) -> f32[B, T]: the trainer multiplies each token's loss by it.
    # Losses are those of the same forward pass, behind a stop_gradient, and NaN without a target. Of the signals in
    # `extra` it gets those that are known before the gradient: "progress", "ref_token_losses".
    token_weights: Callable[..., jax.Array] | None = None
    # Names of the signals that `observe` gets as keyword arguments, besides losses; see `needs.SIGNALS`.
    extra: tuple[str, ...] = ()


class MissingInfo(ValueError):
    """A policy needs the array `name` of `BlockInfo`, and it is None."""

    def __init__(self, name: str, policy: str):
        what = "the parts of documents that blocks have" if name == "documents" else "one number for each block"
        super().__init__(f"{policy} needs {place_of(name)}, {what}; found None")
        self.name = name


def place_of(name: str) -> str:
    """Where an array of `BlockInfo` stands, for errors."""
    return f"BlockInfo.{name}" if name in BlockInfo._fields + LOSSES else f"BlockInfo.columns[{name!r}]"


def num_blocks(info: BlockInfo) -> int:
    """N, after a check of all of `info`. Every policy's `init` calls it.

    Args:
      info: what a trainer passes to `init`.

    Returns:
      `info.num_blocks`.

    Raises:
      ValueError: there is no block, an array has another shape than `(info.num_blocks,)`, or a column has a name that
        means something else, such as "domain".

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
    if reserved := sorted(set(info.columns) & set(RESERVED)):
        raise ValueError(f"BlockInfo.columns has {reserved[0]!r}, which means something else: choose another name")
    for name, array in arrays_of(info).items():
        if np.shape(array) != (n,):
            raise ValueError(
                f"{place_of(name)} has shape {np.shape(array)}, expected ({n},): one entry for each of "
                f"num_blocks={n} blocks"
            )
    return n


def arrays_of(info: BlockInfo) -> dict[str, Column]:
    """All arrays of `info` by name, columns and others."""
    known = dict(domain=info.domain, cluster=info.cluster, length=info.length)
    return {name: array for name, array in known.items() if array is not None} | dict(info.columns)


def required(info: BlockInfo, name: str, policy: str) -> jax.Array | np.ndarray:
    """An array of `BlockInfo` that a policy cannot do without.

    Args:
      info: what a trainer passes to `init`.
      name: "domain", "cluster", "length", or that of a column, such as "ref_loss".
      policy: its name, for the error.

    Returns:
      The array, [N].

    Raises:
      MissingInfo: it is None.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.required(schedule.BlockInfo(2, ref_loss=[3.5, 4.5]), "ref_loss", policy="mine")
      [3.5, 4.5]
    """
    arrays = arrays_of(info)
    if name not in arrays:
        raise MissingInfo(name, policy)
    return arrays[name]
