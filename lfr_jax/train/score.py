"""A scoring pass: the model reads blocks once, and the schedule's state takes in their mean NLL."""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from lfr_jax import schedule
from lfr_jax.data import pipeline
from lfr_jax.data.blocks import Blocks
from lfr_jax.train import signals
from lfr_jax.train.loss import mean_nll


def make_observe_step(sched: schedule.Schedule) -> Callable:
    """Builds `observe(schedule_state, step, (ids_B, nll_B, count_B, ...)) -> schedule_state`, jitted.

    What follows the first three is the losses of tokens f32[B, T], which a schedule may name as "token_losses".

    It consumes (donates) the state. One program for each batch: what it computes is little, so that each
    operation dispatched by itself would cost more than all of them together.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def observe(schedule_state, step, scored):
        ids_B, nll_B, count_B, *tokens = scored
        losses_B = jax.reshard(mean_nll(nll_B, count_B), jax.sharding.PartitionSpec())
        extra = signals.asked(sched, step, ids_B, **dict(zip(("token_losses",), tokens)))
        return sched.observe(schedule_state, ids_B, losses_B, step, **extra)

    return observe


def observe_all(observe: Callable, schedule_state, step: int, measured: Iterator):
    """Folds a scoring pass into the schedule's state, batch by batch, and waits for the last one.

    `observe` is of `make_observe_step`, and `measured` is what `losses` yields.
    """
    for batch, sums in measured:
        schedule_state = observe(schedule_state, np.int32(step), (batch["ids"], *sums))
    return jax.block_until_ready(schedule_state)


def sample_blocks(group_N: np.ndarray, count: int, seed: int, phase: int) -> np.ndarray:
    """Ids of the `count` blocks that the scoring pass of a phase reads, without replacement, in rising order.

    Each group gets its share of the sample, to within one block: blocks are ordered by group, at random within a
    group, and every (N / count)-th one is taken.

    Args:
      group_N: int[N], the number of each block's group, such as its domain.
      count: at most N.
      seed, phase: the sample depends on these and on the groups alone.
    """
    n = len(group_N)
    if count == n:
        return np.arange(n)
    # A negative number is no phase's: else the sample would be what the phase trains on first.
    shuffled_N = schedule.plan(np.ones(n, bool), n, seed, schedule.sample_phase(phase))[:]
    order_N = shuffled_N[np.argsort(group_N[shuffled_N], kind="stable")]
    return np.sort(order_N[(np.arange(count) * n + shuffled_N[0]) // count])


def losses(
    score_step: Callable,
    params,
    blocks: Blocks,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    ids: np.ndarray | None = None,
    workers: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> Iterator[tuple[dict, tuple[jax.Array, jax.Array]]]:
    """Yields (batch, (nll_B, count_B)) for the blocks `ids` (default: all, in order).

    Tokens and sums are on the devices, where the sums may still be computed. The ids of a batch are on the host.

    A batch has `batch_size` blocks of `blocks.seq_len` tokens, or as many tokens in shorter blocks. Blocks of
    several lengths come length by length. At most two batches are on the devices at once. `advance` is called with
    the number of blocks of each batch that is done.
    """
    ids = np.arange(blocks.num_blocks) if ids is None else ids
    kinds = [
        pipeline.Batched(ids[some], batch_size * (blocks.seq_len // length)) for length, some in blocks.by_length(ids)
    ]
    wanted = pipeline.Interleaved(kinds, np.repeat(np.arange(len(kinds)), [len(kind) for kind in kinds]))
    previous = ()
    for host_batch in pipeline.batches(wanted, blocks, mesh, workers=workers):
        batch = pipeline.shard_batch(host_batch, mesh) | {"ids": host_batch["ids"]}
        sums = score_step(params, batch["tokens"])
        jax.block_until_ready(previous)
        previous = sums
        yield batch, sums
        advance(int(np.sum(host_batch["ids"] >= 0)))


def on_host(measured: Iterator) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (ids, nll, count) of each batch that `losses` yields, as numpy arrays without the rows of padding."""
    for batch, sums in measured:
        nll_B, count_B = jax.device_get([whole(x) for x in sums[:2]])
        real_B = batch["ids"] >= 0
        yield batch["ids"][real_B], nll_B[real_B], count_B[real_B]


def whole(x: jax.Array) -> jax.Array:
    """The whole array on this process: where others hold a part of it, a copy that each process holds in full."""
    return x if x.is_fully_addressable else jax.reshard(x, jax.sharding.PartitionSpec())
