r"""The loss as a function of the mixture of domains: which mixtures to try, the law that fits them, and its minimum.

The law is that of Ye et al., with a floor c and one number t for each pair of domains,

$$ L_i(p) = c_i + e^{\sum_j t_{ij} p_j} $$

as in the authors' code of Olmix. Here D domains are trained on, M proxies are trained, each on a mixture of its own,
and the losses of K held-out domains are measured.

References:
  Ye et al. 2024, "Data Mixing Laws", arXiv 2403.16952. Chen et al. 2026, "Olmix: A Framework for Data Mixing
  Throughout LM Development", arXiv 2602.12237, and the authors' code (github.com/allenai/olmix, olmix/fit/utils.py).
  Liu et al. 2024, "RegMix: Data Mixture as Regression for Language Model Pre-training", arXiv 2407.01492, and the
  authors' code (github.com/sail-sg/regmix, mixture_config/synthesize_mixture.py).
"""

from typing import NamedTuple

import numpy as np

STRENGTHS = (0.1, 5.0)  # of the Dirichlet distribution, spread evenly in their logarithm; the authors of RegMix
TEMPERATURE = 0.5  # the power of the natural shares around which mixtures are drawn; the authors of RegMix
FLOORS = 1 - np.geomspace(1, 0.01, 24)  # the floors that are tried, as a share of the lowest loss; ours
RIDGE = 1e-4  # how strongly each loss is held to depend on all domains alike, where proxies do not tell; ours
NEWTON_STEPS = 20
DESCENT_STEPS = 2000


class MixingLaw(NamedTuple):
    """The losses of K held-out domains as a function of the shares of D domains."""

    floor: np.ndarray  # f64[K]: c
    slope: np.ndarray  # f64[K, D]: t

    def losses(self, shares: np.ndarray) -> np.ndarray:
        """f64[..., K]: the losses of mixtures, f64[..., D]."""
        return self.floor + np.exp(shares @ self.slope.T)


def capped(shares: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """The mixture nearest to one in the Kullback–Leibler divergence, with no share above its cap.

    Args:
      shares: f64[D], not negative.
      caps: f64[D], with a sum of 1 or more.

    Returns:
      f64[D], with the sum 1: each share is its cap, or the given one times a factor that they have in common.

    Raises:
      ValueError: the domains whose share is positive have caps that add up to less than 1.

    Examples:
      >>> capped(np.array([0.5, 0.25, 0.25]), np.array([0.2, 1.0, 1.0])).tolist()
      [0.2, 0.4, 0.4]
    """
    caps = np.where(shares > 0, caps, 0.0)
    if caps.sum() < 1 - 1e-9:
        raise ValueError(f"the shares may add up to {caps.sum():.3g}, expected 1 or more")
    full = np.zeros(len(shares), bool)
    for _ in shares:  # each time at least one more domain is full
        free = np.where(full, 0.0, shares)
        factor = max(1 - caps[full].sum(), 0.0) / max(free.sum(), 1e-300)
        over = ~full & (free * factor > caps)
        if not over.any():
            break
        full |= over
    found = np.where(full, caps, free * factor)
    return found / found.sum()


def draw_mixtures(natural: np.ndarray, caps: np.ndarray, count: int, seed: int) -> np.ndarray:
    r"""Mixtures to try: the natural one first, then random ones around it.

    $$ p \sim \operatorname{Dirichlet}(s\, \alpha), \quad \alpha_d \propto \sqrt{n_d}, \quad
       \ln s \text{ uniform from } \ln 0.1 \text{ to } \ln 5 $$

    This is RegMix's. There a mixture above a cap is drawn again; here it is cut to its caps, see `capped`.

    Args:
      natural: f64[D], the domains' shares of the corpus.
      caps: f64[D], the largest share of each.
      count: M, how many mixtures.
      seed: of the random ones.

    Returns:
      f64[M, D]; each row has the sum 1.
    """
    rng = np.random.default_rng(seed)
    around = natural**TEMPERATURE / np.sum(natural**TEMPERATURE)
    drawn = [natural]
    for strength in np.exp(rng.uniform(*np.log(STRENGTHS), count - 1)):
        present = natural > 0
        shares = np.zeros_like(natural)
        shares[present] = rng.dirichlet(np.maximum(strength * around[present], 1e-6))
        drawn.append(np.where(present, np.maximum(shares, 1e-9), 0.0))
    return np.array([capped(shares, caps) for shares in drawn])


def fit_law(shares_MxD: np.ndarray, losses_MxK: np.ndarray) -> MixingLaw:
    """Fits the law to the losses of proxies, by least squares of the losses.

    For each of 24 floors, the slopes follow by Gauss–Newton steps from the least squares of ln(L − c). The floor with
    the smallest error wins. Slopes are drawn a little towards their mean, which leaves something to say where mixtures
    do not tell domains apart.

    Raises:
      ValueError: a loss is not positive and finite, or there are fewer proxies than domains.

    Examples:
      >>> law = MixingLaw(np.array([2.0]), np.array([[0.5, -0.5]]))
      >>> shares = np.array([[0.0, 1.0], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
      >>> fitted = fit_law(shares, law.losses(shares))
      >>> bool(np.abs(fitted.losses(shares) - law.losses(shares)).max() < 0.01)
      True
    """
    if not (np.isfinite(losses_MxK).all() and (losses_MxK > 0).all()):
        raise ValueError(f"found losses from {losses_MxK.min()} to {losses_MxK.max()}, expected positive numbers")
    if len(shares_MxD) < shares_MxD.shape[1]:
        raise ValueError(f"found {len(shares_MxD)} proxies of {shares_MxD.shape[1]} domains, expected at least as many")
    fits = [min((fit_at(share * loss_M.min(), shares_MxD, loss_M) for share in FLOORS), key=lambda fit: fit[0])
            for loss_M in losses_MxK.T]  # fmt: skip
    return MixingLaw(np.array([floor for _, floor, _ in fits]), np.array([slope_D for _, _, slope_D in fits]))


def fit_at(floor: float, shares_MxD: np.ndarray, loss_M: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The penalised squared error of the best slopes for a floor; the floor; the slopes f64[D]."""
    d = shares_MxD.shape[1]
    spread_DxD = np.eye(d) - 1 / d  # what of the slopes is not their mean
    penalty = RIDGE * np.mean((loss_M - loss_M.mean()) ** 2) * len(loss_M) + 1e-12

    def error(slope_D):
        return np.sum((loss_M - floor - np.exp(shares_MxD @ slope_D)) ** 2) + penalty * np.sum(
            (spread_DxD @ slope_D) ** 2
        )

    slope_D, weight_M = None, loss_M - floor
    target_M = np.log(loss_M - floor)
    for _ in range(NEWTON_STEPS):
        design_MxD = weight_M[:, None] * shares_MxD
        system = design_MxD.T @ design_MxD + penalty * spread_DxD + 1e-12 * np.eye(d)
        new_D = np.linalg.solve(system, design_MxD.T @ (weight_M * target_M))
        if slope_D is not None and not error(new_D) < error(slope_D) * (1 - 1e-9):
            break
        slope_D = new_D
        weight_M = np.exp(shares_MxD @ slope_D)
        target_M = shares_MxD @ slope_D + (loss_M - floor - weight_M) / weight_M
    return float(error(slope_D)), float(floor), slope_D


def best_mixture(
    law: MixingLaw, importance: np.ndarray, natural: np.ndarray, caps: np.ndarray, kl: float
) -> np.ndarray:
    r"""The mixture that minimises the law, close to the natural one, with no share above its cap.

    $$ \min_p\ \sum_i w_i L_i(p) + \text{kl} \sum_d p_d \ln \frac{p_d}{q_d} $$

    which is convex. Olmix has this objective. Ours is found by mirror descent.

    Args:
      law: of K held-out domains.
      importance: f64[K], w.
      natural: f64[D], q.
      caps: f64[D], the largest share of each.
      kl: how much it costs to leave the natural mixture; 0: nothing. Olmix has 0.05 to 0.1.

    Returns:
      f64[D], with the sum 1.

    Examples:
      >>> law = MixingLaw(np.array([2.0]), np.array([[0.5, -0.5]]))
      >>> q = np.array([0.5, 0.5])
      >>> best_mixture(law, np.ones(1), q, np.array([1.0, 0.8]), kl=0.0).round(3).tolist()
      [0.2, 0.8]
    """
    present = natural > 0

    def objective(shares):
        divergence = np.sum(shares[present] * np.log(np.maximum(shares[present], 1e-300) / natural[present]))
        return float(importance @ law.losses(shares) + kl * divergence)

    shares, size = capped(natural, caps), 1.0
    value = objective(shares)
    for _ in range(DESCENT_STEPS):
        gradient = (importance * np.exp(law.slope @ shares)) @ law.slope
        logits = np.full(len(shares), -np.inf)
        logits[present] = np.log(np.maximum(shares[present], 1e-300)) - size * gradient[present]
        logits[present] = (logits[present] + size * kl * np.log(natural[present])) / (1 + size * kl)
        moved = np.exp(np.maximum(logits - logits.max(), -500)) * present
        moved = capped(moved / moved.sum(), caps)
        new = objective(moved)
        if new > value:
            size /= 2
            continue
        shares, value, size = moved, new, size * 1.2 if size < 1e3 else size
    return shares


def left_out(shares_MxD: np.ndarray, losses_MxK: np.ndarray) -> np.ndarray:
    """f64[M, K]: what the law says of each proxy, if it is fitted to the others."""
    kept = ~np.eye(len(shares_MxD), dtype=bool)
    return np.array([fit_law(shares_MxD[k], losses_MxK[k]).losses(p) for k, p in zip(kept, shares_MxD)])


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's: 1 if both are in the same order; NaN if one of them is all alike.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    1.0
    """
    ranks = [np.array([(z < value).sum() + ((z == value).sum() - 1) / 2 for value in z]) for z in (x, y)]
    spreads = [rank.std() for rank in ranks]
    if not all(spreads):
        return float("nan")
    return float(np.mean((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())) / (spreads[0] * spreads[1]))
