"""From what was measured of blocks, now or long ago or never, to one loss for each."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from lfr_jax.schedule.observe import Measured
from lfr_jax.schedule.trend import detrend

Scores = Literal["pass", "train", "detrended", "mixed"]
Unmeasured = Literal["hardest", "domain", "cluster"]


def estimate(measured: Measured, since: jax.Array, scores: Scores) -> jax.Array:
    r"""What is known of each block's loss when a phase begins.

    - "pass": the loss that the newest scoring pass measured, which is one after step `since`.
    - "train": the last loss, whenever it was measured.
    - "detrended", "mixed": the last loss less its trend over steps (see `detrend`), in
      min(64, max(1, ⌊N/32⌋)) bins: about 32 blocks or more in each.

    Args:
      measured: losses and steps of N blocks.
      since: i32[], a step after the scoring pass before, and before the newest.
      scores: which of these.

    Returns:
      f32[N], nats per token (less the trend); NaN where not known.
    """
    if scores == "pass":
        return jnp.where(measured.step > since, measured.loss, jnp.nan)
    if scores == "train":
        return measured.loss
    n = measured.loss.shape[0]
    return detrend(measured, num_bins=min(64, max(1, n // 32)))


def checked(name: str, value: str, of) -> str:
    """`value`, if it is one of a Literal's."""
    if value not in get_args(of):
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, get_args(of)))}")
    return value
