"""Classes of blocks by their losses over a run (learned, forgotten, ...), and what noise alone would give.

The *null* is a set of simulated losses: the same trend and the same noise as the data, but no forgetting. A class
is evidence of forgetting only as far as it holds more blocks than in the null.

N blocks, M measurements of each in the order of the steps, C classes, G groups of blocks. Losses
are mean negative log-likelihoods in nats per token.
"""

from typing import NamedTuple

import numpy as np

CLASSES = ("learned", "unlearned", "forgotten", "relearned", "multiple descent")
AT_ONCE = 1 << 20  # losses of the null in memory at once


def classify(loss_NxM: np.ndarray, threshold: float) -> np.ndarray:
    r"""The class of each block's losses, as an index into `CLASSES`.

    A *fall* begins where the loss is more than `threshold` below the highest loss since the last
    turn. A *rise* begins where it is more than `threshold` above the lowest loss since the last
    turn. So falls and rises alternate, and smaller moves do not count.

    - *unlearned*: the loss never falls;
    - *learned*: it falls, and never rises after that;
    - *forgotten*: it falls, then rises, and does not fall again;
    - *relearned*: it falls, rises once, and falls again;
    - *multiple descent*: it rises twice or more after a first fall.

    The paper has the classes learned, unlearned, forgotten and multiple descent. The definition of
    a fall and the class relearned are ours.

    Args:
      loss_NxM: f[..., N, M], finite.
      threshold: nats; 0 counts every move. See `noise_threshold`.

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


class Decomposition(NamedTuple):
    """The losses of each block as a sum: trend + residual."""

    trend_NxM: np.ndarray  # f64[N, M]: the mean of all blocks, shifted and scaled to fit the block
    residual_NxM: np.ndarray  # f64[N, M]
    noise_N: np.ndarray  # f64[N]: standard deviation of the noise in the residual, nats


def decompose(loss_NxM: np.ndarray) -> Decomposition:
    r"""Splits losses into a trend that all blocks share and a residual of each block.

    With $T_m$ the mean loss of all blocks at measurement m, the trend of block n is the
    least-squares fit $a_n + b_n T_m$; the residual $r_{nm}$ is the rest. The noise in the residual
    is estimated from second differences, as slow changes over several measurements hardly move them:

    $$ \sigma_n^2 = \frac{1}{6 (M - 2)} \sum_m (r_{n, m-1} - 2 r_{nm} + r_{n, m+1})^2 $$
    """
    mean_Nx1 = loss_NxM.mean(axis=1, keepdims=True)
    common_M = loss_NxM.mean(axis=0) - loss_NxM.mean()
    slope_N = (loss_NxM - mean_Nx1) @ common_M / max(common_M @ common_M, np.finfo(np.float64).tiny)
    trend_NxM = mean_Nx1 + slope_N[:, None] * common_M
    residual_NxM = loss_NxM - trend_NxM
    noise_N = np.sqrt(np.mean(np.diff(residual_NxM, n=2, axis=1) ** 2, axis=1) / 6)
    return Decomposition(trend_NxM, residual_NxM, noise_N)


def noise_threshold(loss_NxM: np.ndarray) -> float:
    r"""A move, in nats, that noise alone seldom makes: $2 \sigma \sqrt{2 \ln M}$.

    M values of Gaussian noise stay within $\pm \sigma \sqrt{2 \ln M}$ with high probability (Donoho
    and Johnstone 1994). $\sigma$ is the median of the blocks' `decompose(...).noise_N`.
    """
    return float(2 * np.median(decompose(loss_NxM).noise_N) * np.sqrt(2 * np.log(loss_NxM.shape[1])))


class ClassCounts(NamedTuple):
    """How many blocks of each group are in each class, in the data and in the null."""

    groups: tuple[str, ...]  # 'all', then the domains
    count_GxC: np.ndarray  # i64[G, C]: in the data
    null_mean_GxC: np.ndarray  # f64[G, C]: the mean over the draws of the null
    null_low_GxC: np.ndarray  # i64[G, C]: 95 % of the draws lie between this count
    null_high_GxC: np.ndarray  # i64[G, C]: and this one
    class_N: np.ndarray  # i64[N]: indices into `CLASSES`
    threshold: float  # nats

    def verdict(self, group: int, kind: int) -> str:
        """Compares the count with the null, in words."""
        if self.count_GxC[group, kind] > self.null_high_GxC[group, kind]:
            return "more than noise gives"
        if self.count_GxC[group, kind] < self.null_low_GxC[group, kind]:
            return "fewer than noise gives"
        return "as noise gives"


def count_classes(
    loss_NxM: np.ndarray, domain_N: np.ndarray, threshold: float, draws: int = 200, seed: int = 0
) -> ClassCounts:
    r"""Counts the classes in the data and in the null.

    A draw of the null puts the residuals of each block into a random order, around the same trend.
    Before that, they are scaled from their own standard deviation to the noise:

    $$ a_n + b_n T_m + \frac{\sigma_n}{\text{rms}(r_n)}\, r_{n \pi_n(m)} $$

    with trend, residual and $\sigma_n$ of `decompose`, and a permutation $\pi_n$ for each block.
    On average, the scaling does not change residuals that are noise. Without the scaling,
    forgetting would count as noise: in a random order, one slow rise becomes many quick ones, and
    the null would always have the most multiple descents. The scaling is ours.

    Rises that all blocks share are part of the trend, and so of the null: the comparison shows
    whether blocks forget one by one. The null assumes that noise is equally large early and late.
    If noise shrinks in training, the null has too much of it late, and so too many rises.

    Args:
      loss_NxM: f[N, M], finite.
      domain_N: the name of each block's domain.
      threshold: nats; see `classify`.
      draws: how often the null is drawn.
      seed: of these draws.

    Examples:
      >>> import numpy as np
      >>> from lfr_jax.experiments.trajectories import count_classes
      >>> steps = np.arange(12)
      >>> loss_NxM = 3 + 3 * np.exp(-steps / 3) + np.random.default_rng(0).normal(0, 0.01, (200, 12))
      >>> loss_NxM[:20] += 0.2 * np.maximum(0, steps - 6)  # forgotten
      >>> found = count_classes(loss_NxM, np.full(200, "prose"), threshold=0.1)
      >>> found.count_GxC[0].tolist(), found.verdict(0, 2)
      ([180, 0, 20, 0, 0], 'more than noise gives')
    """
    groups, group_N = np.unique(domain_N, return_inverse=True)

    def counts(class_N: np.ndarray) -> np.ndarray:
        """i64[G, C]: how many blocks are in each class; the first group is all blocks."""
        found = np.bincount(group_N * len(CLASSES) + class_N, minlength=len(groups) * len(CLASSES))
        by_domain = found.reshape(len(groups), len(CLASSES))
        return np.concatenate([by_domain.sum(axis=0, keepdims=True), by_domain])

    parts, random = decompose(loss_NxM), np.random.default_rng(seed)
    size = np.sqrt(np.mean(parts.residual_NxM**2, axis=1))
    noise_NxM = parts.residual_NxM * (parts.noise_N / np.maximum(size, np.finfo(np.float64).tiny))[:, None]
    null, at_once = [], max(1, AT_ONCE // loss_NxM.size)
    for first in range(0, draws, at_once):
        copies = np.broadcast_to(noise_NxM, (min(at_once, draws - first), *noise_NxM.shape))
        drawn = parts.trend_NxM + random.permuted(copies, axis=-1)
        null += [counts(class_N) for class_N in classify(drawn, threshold)]
    low, high = np.percentile(null, [2.5, 97.5], axis=0, method="inverted_cdf").astype(np.int64)
    class_N = classify(loss_NxM, threshold)
    return ClassCounts(
        groups=("all", *map(str, groups)),
        count_GxC=counts(class_N),
        null_mean_GxC=np.mean(null, axis=0),
        null_low_GxC=low,
        null_high_GxC=high,
        class_N=class_N,
        threshold=threshold,
    )
