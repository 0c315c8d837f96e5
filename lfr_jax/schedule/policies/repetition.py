"""Better blocks more often, within the draws that a run has."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.estimate import one_of
from lfr_jax.schedule.by_column import Prefer, standard_scores
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import FACTOR, NOT_NEGATIVE, POSITIVE, positive_int, real_number
from lfr_jax.schedule.types import Phase, Schedule
from lfr_jax.schedule.unscored import ignore_losses

DECAY = 15.387756  # repetitions, over which what one more of them is worth falls to 1/e; arXiv 2305.16264, appendix A
HALVINGS = 300  # of an interval of float64, until its ends are neighbours


class RepetitionState(NamedTuple):
    """State of a policy that fixes how often each block is drawn."""

    epochs: jax.Array  # f32[N]: draws of each block; all in proportion where there is nothing to choose


def repetition(
    *,
    steps: int = 1000,
    epochs: float = 1.0,
    most: float = 10.0,
    tilt: float = 0.25,
    column: str = "quality",
    minus: str = "",
    prefer: Prefer = "high",
) -> Schedule:
    r"""Draws a block as many times as its quality is worth, where a repetition is worth less than a first reading.

    Let $z_i$ be the column in standard deviations, and $v_i = e^{\text{tilt} \cdot z_i}$ what a token of block i is
    worth. Read $e$ times, a block is worth as much as $v_i\, D(e)$ new tokens; D is the law of Muennighoff et al., with
    $R^* = 15.4$:

    $$ D(e) = \min(e, 1) + R^* \left( 1 - e^{-\max(e - 1,\, 0) / R^*} \right) $$

    The policy maximises $\sum_i v_i\, D(e_i)$, with $e_i \le \text{most}$ and a mean of `epochs`. The solution is

    $$ e_i = \min\{ \text{most},\ 1 + R^* (\text{tilt} \cdot z_i - \mu) \} \text{ if } \text{tilt} \cdot z_i \ge \mu,
       \text{ otherwise } 0 $$

    where μ is such that the mean is right. So blocks below a threshold are left out. It falls as the run gets longer;
    above it, epochs rise in proportion to quality. Blocks exactly on it may be read less than once. If `epochs` is
    more than `most`, all blocks are drawn equally often.

    Fang et al. repeat documents by quality: ten epochs of a filtered tenth beat one epoch of the whole, if weight
    decay is tuned too. How they count repeats of documents could not be read. This rule is ours; so is applying the
    law, which was fitted to whole corpora, to single blocks.

    Args:
      steps: length of the only phase, 'repeat'.
      epochs: how many draws the run has for each block of the corpus: steps · blocks in a batch / N. The policy knows
        only the proportions of the draws, so it has to be told.
      most: epochs of a block, at most. Fang et al. tried up to ten.
      tilt: logarithm of how much more a token is worth, for each standard deviation of quality. Ours.
      column, minus, prefer: as of `ranked`.

    Returns:
      The schedule; its state is a `RepetitionState`. It needs no losses.

    Raises:
      ValueError: `steps` is not a positive whole number, a number is out of its range, or `prefer` has another value.
        From `init`: `BlockInfo` lacks the column.

    Examples:
      >>> from lfr_jax import schedule
      >>> info = schedule.BlockInfo(4, columns={"quality": [1.0, 2.0, 3.0, 4.0]})
      >>> s = schedule.repetition(epochs=2.0, tilt=0.1)
      >>> [round(epochs, 2) for epochs in s.rates(s.init(info)).tolist()]
      [0.0, 1.29, 2.67, 4.04]

    References:
      Fang et al. 2025, "Datasets, Documents, and Repetitions: The Practicalities of Unequal Data Quality", arXiv
      2503.07879 (read: the abstract).

      Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", arXiv 2305.16264, section 3.1, appendix A.
    """
    one_of("prefer", prefer, Prefer)
    phases = (Phase("repeat", 0, positive_int("steps", steps)),)
    epochs, most = real_number("epochs", epochs, POSITIVE), real_number("most", most, FACTOR)
    tilt = real_number("tilt", tilt, NOT_NEGATIVE)

    def init(info):
        score_N = standard_scores(info, column, minus, prefer, "repetition")
        return RepetitionState(jnp.asarray(allotted(tilt * score_N.astype(np.float64), epochs, most), jnp.float32))

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        return state

    return Schedule(phases, init, ignore_losses, begin, lambda state: state.epochs)


def allotted(worth_N: np.ndarray, epochs: float, most: float) -> np.ndarray:
    """f64[N]: epochs of each block, whose mean is `epochs`; `worth_N` has the logarithms of what a token is worth."""
    n = len(worth_N)
    if epochs >= most:
        return np.ones(n)
    most = min(most, max(n * epochs, 1.0))  # no block has more draws than there are
    sorted_N = np.sort(worth_N)
    sums = np.concatenate([[0.0], np.cumsum(sorted_N)])

    def mean(threshold: float) -> float:
        first, full = np.searchsorted(sorted_N, [threshold, threshold + (most - 1) / DECAY])
        partly = (full - first) * (1 - DECAY * threshold) + DECAY * (sums[full] - sums[first])
        return float(partly + (n - full) * most) / n

    low, high = float(sorted_N[0] - (most - 1) / DECAY - 1), float(np.nextafter(sorted_N[-1], np.inf))
    for _ in range(HALVINGS):  # until no number lies between them
        middle = low / 2 + high / 2
        low, high = (middle, high) if mean(middle) > epochs else (low, middle)

    def of_each(threshold: float) -> np.ndarray:
        return np.where(worth_N >= threshold, np.minimum(1 + DECAY * (worth_N - threshold), most), 0.0)

    above, below = mean(low), mean(high)
    share = (epochs - below) / (above - below) if above > below else 0.0  # of the jump of the blocks on the threshold
    epochs_N = of_each(high) + np.clip(share, 0, 1) * (of_each(low) - of_each(high))
    return epochs_N / (1.0 if epochs > 1e-6 else epochs_N.max())  # or float32 might round all of them to 0
