"""Which documents the blocks have: documents and blocks do not nest, as a block may hold parts of several of each."""

from typing import NamedTuple

import numpy as np


class Documents(NamedTuple):
    """M parts: what a block has of a document. They are sorted by block.

    Documents are numbered from 0, in the order of the store. The last token of a row, which is a target alone, and
    padding count for no document.
    """

    block: np.ndarray  # int64[M]
    document: np.ndarray  # int64[M]
    tokens: np.ndarray  # int64[M], 1 or more


def block_means(x_D: np.ndarray, documents: Documents, num_blocks: int) -> np.ndarray:
    """The mean of the documents of each block, by tokens. NaN is not known, and left out.

    Args:
      x_D: float[D], a number for each document.
      documents: of the blocks.
      num_blocks: N.

    Returns:
      float32[N]; NaN where nothing is known of any document of the block.

    >>> documents = Documents(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([3, 1, 4]))
    >>> block_means(np.array([2.0, 6.0]), documents, 2).tolist()
    [3.0, 6.0]
    """
    x_M = np.asarray(x_D, np.float64)[documents.document]
    known_M = ~np.isnan(x_M)
    block_M, weight_M = documents.block[known_M], documents.tokens[known_M]
    total_N = np.bincount(block_M, weight_M * x_M[known_M], minlength=num_blocks)
    weight_N = np.bincount(block_M, weight_M, minlength=num_blocks)
    mean_N = np.full(num_blocks, np.nan, np.float32)
    np.divide(total_N, weight_N, out=mean_N, where=weight_N > 0, casting="same_kind")
    return mean_N
