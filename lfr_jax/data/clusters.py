"""Clusters of blocks that use the same words, found from the counts of their tokens."""

import warnings

import numpy as np

from lfr_jax.data.blocks import Blocks

BUCKETS = 4096  # token ids are counted modulo this
WIDTH = 64  # the counts are projected to so many dimensions
SAMPLE = 64  # blocks for each cluster; k-means runs on this sample
ROWS = 256  # blocks read at once


def cluster_blocks(blocks: Blocks, num_clusters: int, seed: int) -> np.ndarray:
    r"""Gives each block the number of its cluster. Blocks of a cluster use the same tokens about equally often.

    Let $n_v$ be the number of tokens in the block whose id is v modulo 4,096, T their sum, and R a
    random matrix of $\pm 1/8$. Then a block is the point

    $$ x = R \sqrt{n / T} \in \mathbb{R}^{64} $$

    Distances between such square roots are Hellinger distances, and R roughly keeps them. K-means++ and
    Lloyd's algorithm find K centres from a sample of 64 K blocks. Each block then joins the nearest centre.

    This is our reconstruction. The second version of the LFR paper drops and restores clusters of
    blocks; we do not know how it makes them.

    Args:
      blocks: N blocks. Each is read once; blocks of the sample are read twice.
      num_clusters: K.
      seed: of R, the sample and the first centres.

    Returns:
      int32[N], 0 to K−1. Some numbers are not used if the sample has fewer than K different points, or if
      a centre is nearest to no block. Besides this array, memory is some 20 MB, and 17 kB a cluster.

    Raises:
      ValueError: K is not from 1 to N.

    References:
      Prakriya et al., arXiv 2409.06131, version 2; Achlioptas 2003, "Database-friendly random
      projections"; Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    n = blocks.num_blocks
    if not 1 <= num_clusters <= n:
        raise ValueError(f"schedule.clusters is {num_clusters}, expected 1 to {n}, the number of blocks")
    from scipy.cluster import vq  # slow to import, and few runs have clusters

    rng = np.random.default_rng(seed)
    projection = rng.choice(np.float32([-1, 1]), (BUCKETS, WIDTH)) / np.float32(WIDTH**0.5)
    sample = np.sort(rng.choice(n, min(n, SAMPLE * num_clusters), replace=False, shuffle=False))
    batches = np.split(sample, range(ROWS, len(sample), ROWS))
    sampled = np.concatenate([points(blocks, ids, projection) for ids in batches])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a centre lost its last point; it stays where it was
        centres, _ = vq.kmeans2(sampled, first_centres(sampled, num_clusters, rng), iter=20, minit="matrix")
    cluster_N = np.empty(n, np.int32)
    for start in range(0, n, ROWS):
        ids = np.arange(start, min(start + ROWS, n))
        cluster_N[ids], _ = vq.vq(points(blocks, ids, projection), centres)
    return cluster_N


def points(blocks: Blocks, ids: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """float32[B, WIDTH]: the points of the blocks `ids`."""
    points_BxP = np.empty((len(ids), WIDTH), np.float32)
    for length, some in blocks.by_length(ids):
        tokens_BxT = blocks.tokens(ids[some])[:, :-1]
        rows = len(tokens_BxT)
        real_BxT = tokens_BxT >= 0  # not padding
        buckets_BxT = tokens_BxT % BUCKETS + BUCKETS * np.arange(rows)[:, None]
        counts_BxV = np.bincount(buckets_BxT[real_BxT], minlength=BUCKETS * rows).reshape(rows, BUCKETS)
        length_Bx1 = np.sum(real_BxT, axis=1, keepdims=True, dtype=np.float32)
        points_BxP[some] = np.sqrt(counts_BxV / np.maximum(length_Bx1, 1), dtype=np.float32) @ projection
    return points_BxP


def first_centres(points_SxP: np.ndarray, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """K-means++: the chance of a point to be the next centre is the square of its distance to the nearest centre."""
    centres = [points_SxP[rng.integers(len(points_SxP))]]
    nearest_S = np.full(len(points_SxP), np.inf)
    while len(centres) < num_clusters:
        nearest_S = np.minimum(nearest_S, np.sum((points_SxP - centres[-1]) ** 2, axis=1))
        if not nearest_S.any():  # every point is a centre
            break
        centres.append(points_SxP[rng.choice(len(points_SxP), p=nearest_S / nearest_S.sum())])
    return np.stack(centres)
