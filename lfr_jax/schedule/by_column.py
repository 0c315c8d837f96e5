"""What policies by a column have in common: how its numbers become scores that can be compared."""

from typing import Literal

import jax
import numpy as np

from lfr_jax.schedule.types import BlockInfo, num_blocks, required

Prefer = Literal["high", "low"]


def standard_scores(info: BlockInfo, column: str, minus: str, prefer: Prefer, policy: str) -> np.ndarray:
    r"""f32[N]: the numbers of a column, in standard deviations from their mean; the higher, the better.

    $$ z_i = \pm (x_i - \operatorname{mean} x) / \operatorname{sd} x $$

    An infinite number counts as the largest or the smallest finite one. A block without a number (NaN) gets the
    lowest score of all. If all numbers are alike, all scores are 0.

    Args:
      info: of N blocks.
      column: name of the array of `BlockInfo`.
      minus: name of another one, which is subtracted from it first; "": none is.
      prefer: whether "high" numbers are better, or "low" ones.
      policy: its name, for errors.

    Raises:
      MissingInfo: an array is None.
      ValueError: as `num_blocks`; or an array is traced, which has no numbers yet.
    """
    num_blocks(info)
    arrays = [required(info, name, policy) for name in (column, minus) if name]
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        raise ValueError(
            f"{column!r} in BlockInfo is traced, but {policy} needs its numbers: call init outside of jit, or let the "
            "jitted function close over the BlockInfo"
        )
    x_N, *subtracted = (np.asarray(array, np.float64) for array in arrays)
    for y_N in subtracted:
        x_N = x_N - y_N
    known_N, finite_N = ~np.isnan(x_N), np.isfinite(x_N)
    if not finite_N.any():
        return np.zeros(x_N.shape, np.float32)
    x_N = np.clip(x_N, x_N[finite_N].min(), x_N[finite_N].max())
    mean, spread = x_N[known_N].mean(), x_N[known_N].std()
    z_N = (x_N - mean) / (spread or 1.0)
    z_N = z_N if prefer == "high" else -z_N
    return np.where(known_N, z_N, z_N[known_N].min()).astype(np.float32)
