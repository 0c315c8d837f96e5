"""Recording measured losses: each block keeps its last one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.shards import on_shards


class Measured(NamedTuple):
    """The last measured loss of each of N blocks."""

    loss: jax.Array  # f32[N]: mean NLL, nats per token; NaN = never measured, otherwise finite
    step: jax.Array  # i32[N]: the step of that measurement; −1 = never measured
    num_invalid: jax.Array  # i32[]: measurements so far that were NaN or infinite


def init_measured(num_blocks: int) -> Measured:
    """The state before any measurement.

    Args:
      num_blocks: N.

    Returns:
      `Measured` of N blocks, all losses NaN.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.init_measured(2).loss.tolist()
      [nan, nan]
    """
    return Measured(
        loss=jnp.full(num_blocks, jnp.nan, jnp.float32),
        step=jnp.full(num_blocks, -1, jnp.int32),
        num_invalid=jnp.int32(0),
    )


def observe(measured: Measured, ids_B: jax.Array, losses_B: jax.Array, step: int | jax.Array) -> Measured:
    r"""Records measured losses: a block's new loss replaces its last one.

    A block that occurs several times in one call gets the mean of its finite losses,
    in whatever order they come:

    $$ \ell_i \leftarrow \operatorname{mean} \{ x_b : i_b = i,\ |x_b| < \infty \} $$

    The cost is a sort of B pairs and a scatter; if the ids rise, as in a scoring pass, the scatter alone.
    It does not grow with N: a jitted train step that donates its state updates the arrays in place.
    The arrays of `measured` may be sharded, over axes of either type, with the same bits as a result.
    `ids_B` and `losses_B` must not be sharded (on a mesh with explicit axes: `jax.reshard(x, P())`).

    Args:
      measured: the losses so far, of N blocks.
      ids_B: i32[B] or u32[B] block ids. Ids outside 0..N−1 are ignored; use −1 for rows of padding.
        With more than 2**31 blocks, use u32 ids and 2**32 − 1 for padding.
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
      >>> known = schedule.init_measured(3)
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
    """The arithmetic of `observe`. Ids are u32[B]: −1 becomes a number that is larger than every id."""
    n = np.uint32(measured.loss.shape[0])
    known_B, finite_B = ids_B < n, jnp.isfinite(losses_B)
    # Ids that rise, as in a scoring pass, occur once each: no mean is needed.
    rising = jnp.all((ids_B[1:] > ids_B[:-1]) | ~known_B[1:])
    targets_B = jnp.where(known_B & finite_B, ids_B, n)
    targets_B, losses_B = jax.lax.cond(rising, lambda *once: once, averaged, targets_B, losses_B)

    def updated(shard, blocks, others):
        (loss_N, step_N), (targets_B, losses_B, step) = blocks, others
        targets_B -= shard.first  # ids before the shard become huge, and are dropped like those after it
        return loss_N.at[targets_B].set(losses_B, mode="drop"), step_N.at[targets_B].set(step, mode="drop")

    loss_N, step_N = on_shards(updated, (measured.loss, measured.step), (targets_B, losses_B, step))
    return Measured(loss_N, step_N, measured.num_invalid + jnp.sum(known_B & ~finite_B, dtype=jnp.int32))


def averaged(targets_B: jax.Array, losses_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keeps each target once, with its mean loss. The repeats become 2**32 − 1, which is no block's id."""
    # Sorted by loss within an id, so that the mean does not depend on the caller's order.
    targets_B, losses_B = jax.lax.sort((targets_B, losses_B), num_keys=2)
    means_B, _ = running_means(targets_B, losses_B, jnp.ones_like(losses_B))
    is_last_B = jnp.append(targets_B[1:] != targets_B[:-1], True)
    return jnp.where(is_last_B, targets_B, np.uint32(0xFFFFFFFF)), means_B


def running_means(groups_B: jax.Array, x_B: jax.Array, weights_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """f32[B] each: at each position, the weighted mean of `x_B` over the run of equal `groups_B`, up to this position;
    and the sum of the weights. Where it is 0, the mean means nothing.

    It is a segmented scan. A scatter-add would round differently from one execution to the next on a GPU.
    """

    def merge(a, b):
        (mean_a, n_a, group_a), (mean_b, n_b, group_b) = a, b
        n = n_a + n_b
        # In this form the mean cannot overflow, and the mean of equal values is exactly that value.
        mean = mean_a + (mean_b - mean_a) * jnp.where(n > 0, n_b / n, 0.0)
        same = group_a == group_b
        return jnp.where(same, mean, mean_b), jnp.where(same, n, n_b), group_b

    return jax.lax.associative_scan(merge, (x_B, weights_B, groups_B))[:2]
