"""Learn, Focus, Review by clusters of blocks."""

import functools

import jax

from lfr_jax.schedule.arrays.estimate import Scores
from lfr_jax.schedule.arrays.groups import group_means, per_block
from lfr_jax.schedule.by_loss import scored
from lfr_jax.schedule.phases import learn_focus_review
from lfr_jax.schedule.policies.lfr import keep_hardest
from lfr_jax.schedule.types import Schedule


def lfr_clusters(
    *,
    learn: int = 2000,
    focus: int = 1000,
    review: int = 2000,
    focus2: int = 600,
    drop: float = 0.5,
    drop2: float = 0.7,
    reps: int = 2,
    scores: Scores = "pass",
) -> Schedule:
    r"""The phases of `lfr`, but a Focus phase keeps and drops whole clusters of blocks.

    Let $C_i$ be the cluster of block i, and $\bar\ell_C$ the mean loss of the measured blocks
    of C. A Focus phase draws

    $$ r_i = [\, i \in \text{the } k \text{ blocks with the highest } \bar\ell_{C_i} \,],
       \quad k = N - \lfloor \text{drop} \cdot N \rfloor $$

    So the clusters with the lowest mean are dropped whole. The cluster at the threshold is dropped in part, by a
    hash of the index. A scoring pass over a sample of the blocks is enough, as the others follow
    their cluster. A cluster without any loss is kept.

    The second version of the paper follows clusters of blocks, and counts its phases in steps.
    We do not know how it makes clusters and how it ranks them: this is our reconstruction.

    Args:
      learn, focus, review, focus2, drop, drop2, reps: as of `lfr`.
      scores: as of `lfr`; with "mixed", older losses are pulled towards their cluster's mean.

    Returns:
      The schedule, with the phase names of `lfr`. Its state is a `ScoredState`: `measured`
      (f32[N], i32[N], i32[]), `info` with the clusters (i32[N], i32[G]), and `rate` bool[N].

    Raises:
      ValueError: as `lfr`. From `init`: there is no `BlockInfo.cluster`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.lfr_clusters(learn=4, focus=2, review=4, focus2=1, drop=0.5, reps=1)
      >>> state = s.init(schedule.BlockInfo(6, cluster=jnp.array([0, 0, 1, 1, 2, 2])))
      >>> state = s.observe(state, jnp.array([0, 2, 4]), jnp.array([5.0, 2.0, 4.0]), 4)
      >>> s.rates(s.begin(state, 1)).tolist()  # all of cluster 0, half of cluster 2
      [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]

    References:
      Prakriya et al., "Accelerating LLM Pretraining via LFR Pedagogy: Learn, Focus, and
      Review", arXiv 2409.06131, version 2.
    """
    phases, drops = learn_focus_review(
        learn=learn, focus=focus, review=review, focus2=focus2, drop=drop, drop2=drop2, reps=reps,
        score=scores in ("pass", "mixed"),
    )  # fmt: skip
    by_drop = {drop: functools.partial(keep_hardest_clusters, drop=drop) if drop else None for drop in drops}
    choices = tuple(by_drop[drop] for drop in drops)
    return scored(phases, choices, scores=scores, unmeasured="cluster", policy="lfr_clusters")


def keep_hardest_clusters(loss_N: jax.Array, info, drop: float) -> jax.Array:
    """bool[N]: the blocks that are left without the share `drop`, taken from the clusters of the lowest mean."""
    means_G, _ = group_means(loss_N, info["cluster"])
    return keep_hardest(per_block(means_G, info["cluster"]), info, drop)
