"""Folding measured losses into per-block arrays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.shards import on_shards


class Measured(NamedTuple):
    """The last loss that was measured of each block."""

    loss: jax.Array  # f32[N]: mean NLL, nats per token; NaN = never measured, otherwise finite
    step: jax.Array  # i32[N]: the step of that measurement; −1 = never measured
    num_invalid: jax.Array  # i32[]: measurements so far that were NaN or infinite


def unmeasured(num_blocks: int) -> Measured:
    """N blocks of which nothing is known."""
    return Measured(
        loss=jnp.full(num_blocks, jnp.nan, jnp.float32),
        step=jnp.full(num_blocks, -1, jnp.int32),
        num_invalid=jnp.int32(0),
    )


def observe(measured: Measured, ids_B: jax.Array, losses_B: jax.Array, step: int | jax.Array) -> Measured:
    r"""Replaces the last loss of the blocks `ids_B`.

    A block that stands several times in the call gets the mean of its finite losses,
    whatever the order in which they stand:

    $$ \ell_i \leftarrow \operatorname{mean} \{ x_b : i_b = i,\ |x_b| < \infty \} $$

    The cost is that of a sort of B pairs, or where ids rise, as in a scoring pass, of a scatter
    alone; whatever N: inside a jitted train step that donates its state, the two arrays are
    updated in place. They may be sharded, over axes of either type, to the same bits; `ids_B` and
    `losses_B` may not (`jax.reshard(x, P())`, where the mesh has explicit axes).

    Args:
      measured: what is known so far, of N blocks.
      ids_B: i32[B] or u32[B] block ids. Those outside 0..N−1 are ignored: −1 is a row of padding.
        Numbers from 2**31 on are u32, padding then being 2**32 − 1.
      losses_B: float[B] mean NLL, nats per token. NaN and infinity leave the block as it
        was, and are counted in `num_invalid`.
      step: i32[], the step at which the losses were measured.

    Returns:
      The new `Measured`.

    Raises:
      TypeError: the ids are not integers.
      ValueError: ids and losses differ in shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> known = schedule.unmeasured(3)
      >>> known = schedule.observe(known, jnp.array([2, 0, 2, -1]), jnp.array([4.0, jnp.inf, 2.0, 9.0]), 7)
      >>> known.loss.tolist(), known.step.tolist(), int(known.num_invalid)
      ([nan, nan, 3.0], [-1, -1, 7], 1)
    """
    ids_B, losses_B = jnp.asarray(ids_B), jnp.asarray(losses_B, jnp.float32)
    if not jnp.issubdtype(ids_B.dtype, jnp.integer):
        raise TypeError(f"block ids are {ids_B.dtype}, expected integers")
    if ids_B.shape != losses_B.shape or ids_B.ndim != 1:
        raise ValueError(f"ids have shape {ids_B.shape}, losses {losses_B.shape}, expected [B] for both")
    if ids_B.size == 0:
        return measured
    return fold(measured, ids_B.astype(jnp.uint32), losses_B, jnp.asarray(step, jnp.int32))


@jax.jit  # one compilation where `observe` is called outside of a jit
def fold(measured: Measured, ids_B: jax.Array, losses_B: jax.Array, step: jax.Array) -> Measured:
    """The arithmetic of `observe`; ids are u32[B], so that −1 lies beyond every block."""
    n = np.uint32(measured.loss.shape[0])
    known_B, finite_B = ids_B < n, jnp.isfinite(losses_B)
    # Blocks in rising order are those of a scoring pass: none of them stands there twice.
    rising = jnp.all((ids_B[1:] > ids_B[:-1]) | ~known_B[1:])
    targets_B = jnp.where(known_B & finite_B, ids_B, n)
    targets_B, losses_B = jax.lax.cond(rising, lambda *once: once, averaged, targets_B, losses_B)

    def updated(shard, blocks, others):
        (loss_N, step_N), (targets_B, losses_B, step) = blocks, others
        targets_B -= shard.first  # those before the shard wrap round, and are dropped as those after it
        return loss_N.at[targets_B].set(losses_B, mode="drop"), step_N.at[targets_B].set(step, mode="drop")

    loss_N, step_N = on_shards(updated, (measured.loss, measured.step), (targets_B, losses_B, step))
    return Measured(loss_N, step_N, measured.num_invalid + jnp.sum(known_B & ~finite_B, dtype=jnp.int32))


def averaged(targets_B: jax.Array, losses_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Every target once, with its mean loss; elsewhere the last number there is, which no block bears."""
    # Sorted by id, then loss: the runs of equal ids, each in an order that is not the caller's.
    targets_B, losses_B = jax.lax.sort((targets_B, losses_B), num_keys=2)
    means_B = running_means(targets_B, losses_B)
    is_last_B = jnp.append(targets_B[1:] != targets_B[:-1], True)
    return jnp.where(is_last_B, targets_B, np.uint32(0xFFFFFFFF)), means_B


def running_means(groups_B: jax.Array, x_B: jax.Array) -> jax.Array:
    """f32[B]: the mean of each run of equal `groups_B` up to and including each place.

    A segmented scan, as scatter-add would round differently from run to run on a GPU.
    """

    def merge(a, b):
        (mean_a, n_a, group_a), (mean_b, n_b, group_b) = a, b
        n = n_a + n_b
        # This form of the mean cannot overflow, and of equal values it is exactly their value.
        mean = mean_a + (mean_b - mean_a) * (n_b / n)
        same = group_a == group_b
        return jnp.where(same, mean, mean_b), jnp.where(same, n, n_b), group_b

    return jax.lax.associative_scan(merge, (x_B, jnp.ones_like(x_B), groups_B))[0]
