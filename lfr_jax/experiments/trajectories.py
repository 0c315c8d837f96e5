"""What becomes of a block: the class of its losses over a run, beside what noise alone would have given.

N blocks, M measurements of each in the order of the steps, C classes, G groups of blocks. Losses
are mean negative log-likelihoods in nats per token.
"""

from typing import NamedTuple

import numpy as np

CLASSES = ("learned", "unlearned", "forgotten", "relearned", "multiple descent")
AT_ONCE = 1 << 20  # losses that the null holds in memory at once


def classify(loss_NxM: np.ndarray, threshold: float) -> np.ndarray:
    r"""The class of each block's losses, as an index into `CLASSES`.

    Follow a block's losses, and let a *fall* begin where the loss stands more than `threshold`
    below the highest since the last turn, and a *rise* where it stands more than `threshold`
    above the lowest since then. So falls and rises alternate, and smaller moves are none.

    - *unlearned*: never falls;
    - *learned*: falls, and never rises after that;
    - *forgotten*: falls, then rises, for good;
    - *relearned*: falls, rises once, and falls again;
    - *multiple descent*: rises twice or more after a first fall, however it ends.

    The paper speaks of blocks learned, unlearned, forgotten, and of multiple descent. What is a
    fall, and the class for blocks that were forgotten once and learned again, are ours.

    Args:
      loss_NxM: f[..., N, M], finite.
      threshold: in nats; 0 counts every move. See `noise_threshold`.

    Returns:
      i64[..., N].

    Examples:
      >>> import numpy as np
      >>> from lfr_jax.experiments.trajectories import CLASSES, classify
      >>> losses = [[5, 3, 3, 2, 2], [5, 5, 5.3, 6, 6], [5, 3, 3, 4, 4], [5, 3, 4, 4, 2], [5, 3, 4, 3, 4]]
      >>> [CLASSES[i] for i in classify(np.array(losses), threshold=0.5)]
      ['learned', 'unlearned', 'forgotten', 'relearned', 'multiple descent']

    References:
      Prakriya et al., "Accelerating LLM Pretraining via LFR Pedagogy: Learn, Focus, and
      Review", arXiv 2409.06131.
    """
    loss_MxN = np.ascontiguousarray(np.moveaxis(np.asarray(loss_NxM, np.float64), -1, 0))
    low_N, high_N = loss_MxN[0].copy(), loss_MxN[0].copy()  # since the last turn
    falling_N, rising_N = np.zeros_like(low_N, bool), np.zeros_like(low_N, bool)
    falls_N, rises_N = np.zeros_like(low_N, np.int64), np.zeros_like(low_N, np.int64)
    for loss_N in loss_MxN[1:]:
        np.minimum(low_N, loss_N, out=low_N)
        np.maximum(high_N, loss_N, out=high_N)
        turns_down_N = ~falling_N & (high_N - loss_N > threshold)
        turns_up_N = ~rising_N & (loss_N - low_N > threshold)
        falls_N += turns_down_N
        rises_N += turns_up_N & (falls_N > 0)
        falling_N = turns_down_N | (falling_N & ~turns_up_N)
        rising_N = turns_up_N | (rising_N & ~turns_down_N)
        np.copyto(low_N, loss_N, where=turns_down_N)
        np.copyto(high_N, loss_N, where=turns_up_N)
    cases = {
        "unlearned": falls_N == 0,
        "learned": rises_N == 0,
        "multiple descent": rises_N > 1,
        "forgotten": rising_N,
    }
    return np.select(list(cases.values()), [CLASSES.index(name) for name in cases], CLASSES.index("relearned"))


class Parts(NamedTuple):
    """Each block's losses, taken apart: trend + residual."""

    trend_NxM: np.ndarray  # the mean of all blocks, moved and stretched to fit the block
    residual_NxM: np.ndarray
    noise_N: np.ndarray  # standard deviation of the part of it that has no memory


def take_apart(loss_NxM: np.ndarray) -> Parts:
    r"""Splits losses into the trend that blocks have in common and what is each one's own.

    With $T_m$ the mean loss of all blocks at measurement m, block n is fitted by least squares as
    $a_n + b_n T_m$; the residual $r_{nm}$ is what is left. How much of it is noise is estimated
    from second differences, which what comes and goes over several measurements hardly touches:

    $$ \sigma_n^2 = \frac{1}{6 (M - 2)} \sum_m (r_{n, m-1} - 2 r_{nm} + r_{n, m+1})^2 $$
    """
    mean_Nx1 = loss_NxM.mean(axis=1, keepdims=True)
    common_M = loss_NxM.mean(axis=0) - loss_NxM.mean()
    slope_N = (loss_NxM - mean_Nx1) @ common_M / max(common_M @ common_M, np.finfo(np.float64).tiny)
    trend_NxM = mean_Nx1 + slope_N[:, None] * common_M
    residual_NxM = loss_NxM - trend_NxM
    noise_N = np.sqrt(np.mean(np.diff(residual_NxM, n=2, axis=1) ** 2, axis=1) / 6)
    return Parts(trend_NxM, residual_NxM, noise_N)


def noise_threshold(loss_NxM: np.ndarray) -> float:
    r"""A move, in nats, that noise alone makes in few blocks: $2 \sigma \sqrt{2 \ln M}$.

    M values of Gaussian noise stay within $\pm \sigma \sqrt{2 \ln M}$ with high probability (Donoho
    and Johnstone 1994). $\sigma$ is the median of the blocks' `take_apart(...).noise_N`.
    """
    return float(2 * np.median(take_apart(loss_NxM).noise_N) * np.sqrt(2 * np.log(loss_NxM.shape[1])))


class Census(NamedTuple):
    """How many blocks of each group are in each class, and how many would be by noise alone."""

    groups: tuple[str, ...]  # 'all', then the domains
    count_GxC: np.ndarray  # i64[G, C]
    null_mean_GxC: np.ndarray  # f64[G, C]
    null_low_GxC: np.ndarray  # i64[G, C]: 95 % of the null's counts lie from here
    null_high_GxC: np.ndarray  # i64[G, C]: to here
    class_N: np.ndarray  # i64[N]
    threshold: float  # nats

    def verdict(self, group: int, kind: int) -> str:
        """The count beside the null's, in words."""
        if self.count_GxC[group, kind] > self.null_high_GxC[group, kind]:
            return "more than the null"
        if self.count_GxC[group, kind] < self.null_low_GxC[group, kind]:
            return "fewer than the null"
        return "as in the null"


def census(loss_NxM: np.ndarray, domain_N: np.ndarray, threshold: float, draws: int = 200, seed: int = 0) -> Census:
    r"""Counts the classes in the data and in a null: the same trends and the same noise, but no memory.

    A draw of the null puts each block's residuals around the common trend into another order,
    at random. First they are scaled, from their own standard deviation to that of the noise alone:

    $$ a_n + b_n T_m + \frac{\sigma_n}{\text{rms}(r_n)}\, r_{n \pi_n(m)} $$

    with the parts and $\sigma_n$ of `take_apart`, and $\pi_n$ a permutation of its own for each
    block. Residuals that are noise are not changed by the scaling, on average. Without it, what a
    block forgets would count as its noise: in another order, one slow rise becomes many quick
    ones, and the null would always have the most multiple descents. The scaling is ours.

    Rises that all blocks share are in the trend, and so in the null too: it tells whether blocks
    forget on their own. Noise counts as equally large early and late. Where it shrinks in
    training, the null has too much of it late, and so errs towards more rises.

    Args:
      loss_NxM: f[N, M], finite.
      domain_N: the name of each block's domain.
      threshold: in nats; see `classify`.
      draws: of the null.
      seed: of the draws.

    Examples:
      >>> import numpy as np
      >>> from lfr_jax.experiments.trajectories import census
      >>> steps = np.arange(12)
      >>> loss_NxM = 3 + 3 * np.exp(-steps / 3) + np.random.default_rng(0).normal(0, 0.01, (200, 12))
      >>> loss_NxM[:20] += 0.2 * np.maximum(0, steps - 6)  # forgotten
      >>> found = census(loss_NxM, np.full(200, "prose"), threshold=0.1)
      >>> found.count_GxC[0].tolist(), found.verdict(0, 2)
      ([180, 0, 20, 0, 0], 'more than the null')
    """
    groups, group_N = np.unique(domain_N, return_inverse=True)

    def counts(class_N: np.ndarray) -> np.ndarray:
        """i64[G, C]; the first group is all blocks."""
        found = np.bincount(group_N * len(CLASSES) + class_N, minlength=len(groups) * len(CLASSES))
        by_domain = found.reshape(len(groups), len(CLASSES))
        return np.concatenate([by_domain.sum(axis=0, keepdims=True), by_domain])

    parts, random = take_apart(loss_NxM), np.random.default_rng(seed)
    size = np.sqrt(np.mean(parts.residual_NxM**2, axis=1))
    noise_NxM = parts.residual_NxM * (parts.noise_N / np.maximum(size, np.finfo(np.float64).tiny))[:, None]
    null, at_once = [], max(1, AT_ONCE // loss_NxM.size)
    for first in range(0, draws, at_once):
        copies = np.broadcast_to(noise_NxM, (min(at_once, draws - first), *noise_NxM.shape))
        drawn = parts.trend_NxM + random.permuted(copies, axis=-1)
        null += [counts(class_N) for class_N in classify(drawn, threshold)]
    low, high = np.percentile(null, [2.5, 97.5], axis=0, method="inverted_cdf").astype(np.int64)
    class_N = classify(loss_NxM, threshold)
    return Census(
        groups=("all", *map(str, groups)),
        count_GxC=counts(class_N),
        null_mean_GxC=np.mean(null, axis=0),
        null_low_GxC=low,
        null_high_GxC=high,
        class_N=class_N,
        threshold=threshold,
    )
