"""Folding measured losses into per-block arrays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


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

    The cost is O(B log B), whatever N: inside a jitted train step that donates its state,
    the two arrays are updated in place. They must not be sharded; `ids_B` and `losses_B`
    neither (`jax.reshard(x, P())`, where the mesh has explicit axes).

    Args:
      measured: what is known so far, of N blocks.
      ids_B: i32[B] block ids. Those outside 0..N−1 are ignored: −1 is a row of padding.
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

    n = measured.loss.shape[0]
    known_B = (ids_B >= 0) & (ids_B < n)
    finite_B = jnp.isfinite(losses_B)
    num_invalid = measured.num_invalid + jnp.sum(known_B & ~finite_B, dtype=jnp.int32)

    # Sorted by id, then loss: the runs of equal ids, each in an order that is not the caller's.
    targets_B = jnp.where(known_B & finite_B, ids_B, n)
    targets_B, losses_B = jax.lax.sort((targets_B, losses_B), num_keys=2)
    means_B = running_means(targets_B, losses_B)
    is_last_B = jnp.append(targets_B[1:] != targets_B[:-1], True)
    targets_B = jnp.where(is_last_B, targets_B, n)  # n lies outside, and is dropped
    return Measured(
        loss=measured.loss.at[targets_B].set(means_B, mode="drop"),
        step=measured.step.at[targets_B].set(jnp.asarray(step, jnp.int32), mode="drop"),
        num_invalid=num_invalid,
    )


@jax.jit  # one compilation where `observe` is called outside of a jit
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
