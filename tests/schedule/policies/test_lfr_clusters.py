"""Learn–Focus–Review by clusters, worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

LENGTHS = dict(learn=4, focus=2, review=4, focus2=2)
CLUSTERS = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 0, 0])  # of 5, 3, 2 and 2 blocks


def start(**options):
    s = schedule.lfr_clusters(**LENGTHS, reps=1, **options)
    return s, s.init(schedule.BlockInfo(len(CLUSTERS), cluster=CLUSTERS))


def drawn(s, state):
    return np.flatnonzero(s.rates(state)).tolist()


def measure(s, state, losses, step):
    return s.observe(state, jnp.array(list(losses)), jnp.array(list(losses.values()), jnp.float32), step)


def test_whole_clusters_by_the_mean_of_a_sample():
    """Catches: the hardest dropped; sums for means (cluster 0); blocks ranked by their own loss (block 5)."""
    s, state = start(drop=0.6, drop2=0.84)
    assert drawn(s, s.begin(state, 0)) == list(range(12))
    # Means: cluster 0: (2 + 3 + 4) / 3 = 3; 1: (1 + 8) / 2 = 4.5; 2: 5; 3: 2. Kept are 12 − 7 = 5: 1 and 2.
    state = measure(s, state, {0: 2.0, 4: 3.0, 8: 4.0, 1: 1.0, 5: 8.0, 2: 5.0, 7: 2.0}, 4)
    state = s.begin(state, 1)
    assert drawn(s, state) == [1, 2, 5, 6, 9]
    assert drawn(s, s.begin(state, 2)) == list(range(12))
    # A new sample; of the old one nothing counts. Kept are 12 − 10 = 2: cluster 3.
    state = measure(s, state, {0: 2.0, 1: 1.0, 2: 3.0, 3: 4.0}, 10)
    assert drawn(s, s.begin(state, 3)) == [3, 7]


def test_the_cluster_on_the_edge_is_dropped_in_part():
    """Catches: all or nothing of a cluster, so that the number kept is off; blocks of an easier cluster kept."""
    s, state = start(drop=0.5)
    state = measure(s, state, {0: 2.0, 1: 4.0, 2: 3.0, 3: 1.0}, 4)
    kept = drawn(s, s.begin(state, 1))
    assert len(kept) == 6 and {1, 5, 9, 2, 6} < set(kept)
    assert set(kept) - {1, 5, 9, 2, 6} < {0, 4, 8, 10, 11}


def test_a_cluster_without_losses_is_kept():
    """Catches: the mean of nothing counted as easy."""
    s, state = start(drop=0.6)
    state = measure(s, state, {0: 2.0, 1: 4.0, 3: 1.0}, 4)
    assert drawn(s, s.begin(state, 1)) == [1, 2, 5, 6, 9]


def test_phases_are_those_of_lfr_and_clusters_are_needed():
    """Catches: other phases than those it is compared with; a missing array found only in mid-run."""
    for scores in ("pass", "train"):
        assert schedule.lfr_clusters(**LENGTHS, scores=scores).phases == schedule.lfr(**LENGTHS, scores=scores).phases
    with pytest.raises(ValueError, match="lfr_clusters needs BlockInfo.cluster"):
        schedule.lfr_clusters().init(schedule.BlockInfo(4, domain=np.zeros(4, int)))
