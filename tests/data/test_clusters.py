"""Clusters of blocks: like with like, the same each time, and not put out by odd corpora."""

import numpy as np
import pytest

from lfr_jax.data import clusters

LENGTH = 64


class Rows:
    """Blocks with given tokens int32[N, LENGTH + 1]."""

    seq_len = LENGTH

    def __init__(self, tokens):
        self.tokens_NxT1, self.num_blocks = np.asarray(tokens, np.int32), len(tokens)

    def by_length(self, ids):
        return [(LENGTH, slice(None))]

    def tokens(self, ids):
        return self.tokens_NxT1[ids]


def languages(counts, seed=0, vocab=20_000):
    """Blocks of several made-up languages, each with 50 words of its own, in random order; and their languages."""
    rng = np.random.default_rng(seed)
    words = rng.permutation(vocab)[: 50 * len(counts)].reshape(len(counts), 50)
    of_N = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return Rows([rng.choice(words[of], LENGTH + 1) for of in of_N]), of_N


def test_no_cluster_mixes_languages():
    """Catches: ids mixed up between chunks; a projection that forgets the words; two first centres at one place."""
    blocks, of_N = languages([300, 200, 30, 100])  # more than two chunks, the last one not full
    assert clusters.ROWS * 2 < blocks.num_blocks and blocks.num_blocks % clusters.ROWS
    cluster_N = clusters.cluster_blocks(blocks, 8, seed=0)
    assert cluster_N.dtype == np.int32 and cluster_N.shape == of_N.shape
    assert len({(a, b) for a, b in zip(of_N, cluster_N)}) == len(set(cluster_N)) == 8


def test_most_blocks_need_not_be_in_the_sample(monkeypatch):
    """Catches: blocks outside the sample left without a cluster; a sample of the corpus's first blocks alone."""
    monkeypatch.setattr(clusters, "SAMPLE", 10)
    blocks, of_N = languages([300, 300])
    order = np.argsort(of_N, kind="stable")  # the second language begins in the middle
    cluster_N = clusters.cluster_blocks(Rows(blocks.tokens_NxT1[order]), 2, seed=0)
    assert len({(a, b) for a, b in zip(of_N[order], cluster_N)}) == 2 == len(set(cluster_N))


def test_the_seed_decides():
    """Catches: a random state that is shared, or left to the clock; a seed that is ignored."""
    blocks, _ = languages([40] * 12)
    first, again, other = (clusters.cluster_blocks(blocks, 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    "tokens", [np.full((70, LENGTH + 1), 7), np.full((70, LENGTH + 1), -1)], ids=["same", "padding"]
)
def test_blocks_that_are_all_alike_are_one_cluster(tokens):
    """Catches: a division by zero in K-means++ where every point is a centre already."""
    assert set(clusters.cluster_blocks(Rows(tokens), 5, seed=0)) == {0}


def test_blocks_of_one_token_among_others():
    """Catches: counts that overflow into the next block's; a warning (here an error) of an empty cluster."""
    blocks, of_N = languages([100, 100])
    blocks.tokens_NxT1[::10] = 19_999
    cluster_N = clusters.cluster_blocks(blocks, 8, seed=0)
    assert np.flatnonzero(cluster_N == cluster_N[0]).tolist() == list(range(0, 200, 10))


def test_padding_is_no_word():
    """Catches: blocks alike because they are filled up alike; counts of few tokens taken for rare words."""
    blocks, of_N = languages([100, 100])
    blocks.tokens_NxT1[::3, 16:] = -1
    cluster_N = clusters.cluster_blocks(blocks, 2, seed=0)
    assert len({(a, b) for a, b in zip(of_N, cluster_N)}) == 2 == len(set(cluster_N))


@pytest.mark.parametrize("num_clusters", [-1, 0, 41])
def test_an_impossible_number_is_refused(num_clusters):
    """Catches: an endless search for centres, or a traceback from within scipy."""
    blocks, _ = languages([20, 20])
    with pytest.raises(
        ValueError, match=f"schedule.clusters is {num_clusters}, expected 1 to 40, the number of blocks"
    ):
        clusters.cluster_blocks(blocks, num_clusters, seed=0)
    assert set(clusters.cluster_blocks(blocks, 40, seed=0)) <= set(range(40))
