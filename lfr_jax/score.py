"""A scoring pass: every block through the model once, its mean NLL into the schedule's state."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from lfr_jax import pipeline
from lfr_jax.blocks import Blocks
from lfr_jax.schedule import Schedule


def observe_all(schedule: Schedule, schedule_state, step: int, measured: Iterator):
    """Folds a scoring pass into the schedule's state; `measured` is what `losses` yields."""
    observe = jax.jit(schedule.observe, donate_argnums=0)
    for batch, (nll_B, count_B) in measured:
        replicated = jax.sharding.PartitionSpec()
        ids_B, losses_B = (jax.reshard(x, replicated) for x in (batch["ids"], nll_B / count_B))
        schedule_state = observe(schedule_state, ids_B, losses_B, np.int32(step))
    return schedule_state


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
    """Yields (batch, (nll_B, count_B)) for the blocks `ids` (default: all, in order), still on the devices.

    At most two batches are under way at once. `advance` is told how many blocks are done.
    """
    draws = pipeline.InOrder(blocks.num_blocks if ids is None else ids)
    previous = ()
    for host_batch in pipeline.batches(draws, blocks, batch_size, workers=workers):
        batch = pipeline.place(host_batch, mesh)
        sums = score_step(params, batch["tokens"])
        jax.block_until_ready(previous)
        previous = sums
        yield batch, sums
        advance(int(np.sum(host_batch["ids"] >= 0)))
