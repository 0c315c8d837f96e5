"""Experiments whose truth is known, drawn by chance: an arm, and the baseline at five budgets.

The baseline's loss is a scaling law. The arm's is that of the baseline at `multiplier` times what it spends. What a
seed has in common with itself, the run alone, a document, and a document in an arm all move the losses.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from lfr_jax.experiments.measure import Documents, Losses

BUDGETS = (0.5, 0.7, 1.0, 1.4, 2.0)
FLOPS = 1e12  # of budget 1


def scaling_law(budget):
    """About 0.4 nats for twice the FLOPs."""
    return 3.0 + 1.6 * budget**-0.4


def experiments(
    count: int,
    seeds: int,
    *,
    multipliers: tuple[float, ...] = (1.0,),
    documents: int = 60,
    seed_sd: float = 0.02,  # of what all runs of a seed have in common
    run_sd: float = 0.01,  # of a run alone
    document_sd: float = 0.04,  # of a document in an arm, and of how fast a document is learned
    cell_sd: float = 0.03,  # of a document in a run
    law: Callable = scaling_law,
) -> Iterator[tuple[list[Losses], list[Losses], Documents]]:
    """Arms (one for each multiplier), the baseline's budgets, and the documents: `count` times."""
    rng = np.random.default_rng(seeds)
    names = tuple(range(10, 10 + seeds))
    for _ in range(count):
        tokens_D = np.ceil(rng.lognormal(5.0, 0.7, documents))
        domain_D = np.array(["code", "prose", "tables"])[np.arange(documents) % 6 // 2]
        hard_D, fast_D = rng.normal(0, 0.5, documents), rng.normal(0, document_sd, documents)
        seed_Sx1 = rng.normal(0, seed_sd, (seeds, 1))

        def run(budget, worth, unlike_D):
            alone_SxD = rng.normal(0, run_sd, (seeds, 1)) + rng.normal(0, cell_sd, (seeds, documents))
            loss_SxD = law(worth) + hard_D + fast_D * np.log(worth) + unlike_D + seed_Sx1 + alone_SxD
            return Losses(names, loss_SxD * tokens_D, budget * FLOPS)

        arms = [run(1.0, worth, rng.normal(0, document_sd, documents)) for worth in multipliers]
        yield arms, [run(b, b, np.zeros(documents)) for b in BUDGETS], Documents(tokens_D, 4 * tokens_D, domain_D)


def allowed(count: int, share: float) -> tuple[int, int]:
    """How often something of this share happens in `count` tries, but for one time in 500."""
    low, high = stats.binom.ppf((0.001, 0.999), count, share)
    return int(low), int(high)
