"""Documents as units: scores of documents from those of blocks, and the other way round.

A block may hold parts of several documents, and a document may lie in several blocks. So neither is a group of the
other, and both directions are means, weighted by the tokens that the two have in common.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.observe import running_means
from lfr_jax.schedule.types import BlockInfo, MissingInfo


class Documents(NamedTuple):
    """M parts of D documents in N blocks."""

    block: jax.Array  # i32[M]: the block of each part, rising
    document: jax.Array  # i32[M]: its document
    tokens: jax.Array  # i32[M]: how many tokens they have in common
    order: jax.Array  # i32[M]: the parts, sorted by document
    last_of_block: jax.Array  # i32[N]: each block's last part; −1: it has none
    last_of_document: jax.Array  # i32[D]: place of each document's last part in `order`; −1: it is in no block


def documents_of(info: BlockInfo, policy: str) -> Documents:
    """Reads `BlockInfo.documents`. Call it in `init`, outside of jit.

    Args:
      info: of N blocks.
      policy: its name, for errors.

    Returns:
      `Documents`: 16 bytes a part, and 4 for each block and document.

    Raises:
      MissingInfo: `info` does not say.
      ValueError: a part has no tokens, or is of no block; the parts are not sorted by block; or they are traced.

    Examples:
      Block 0 has 3 tokens of document 0 and 1 of document 1, block 1 has 4 of document 1.

      >>> from lfr_jax import schedule
      >>> info = schedule.BlockInfo(2, documents=([0, 0, 1], [0, 1, 1], [3, 1, 4]))
      >>> schedule.documents_of(info, policy="mine").last_of_document.tolist()
      [0, 2]
    """
    if info.documents is None:
        raise MissingInfo("documents", policy)
    if any(isinstance(part, jax.core.Tracer) for part in info.documents):
        raise ValueError("BlockInfo.documents is traced, but documents must be counted: call init outside of jit")
    block_M, document_M, tokens_M = (np.asarray(part) for part in info.documents)
    if not len(block_M) == len(document_M) == len(tokens_M) or not len(block_M) < 2**31:
        raise ValueError(
            f"BlockInfo.documents has {len(block_M)} blocks, {len(document_M)} documents and {len(tokens_M)} numbers "
            "of tokens, expected one of each for each part, less than 2**31"
        )
    order_M = np.argsort(document_M, kind="stable")
    last_N = last_places(block_M, info.num_blocks, "block")
    last_D = last_places(document_M[order_M], int(document_M.max(initial=-1)) + 1, "document")
    if tokens_M.min(initial=1) < 1:
        raise ValueError(f"BlockInfo.documents has a part of {tokens_M.min()} tokens, expected 1 or more")
    return Documents(*(jnp.asarray(x, jnp.int32) for x in (block_M, document_M, tokens_M, order_M, last_N, last_D)))


def last_places(of_M: np.ndarray, count: int, kind: str) -> np.ndarray:
    """int64[count]: where each of the numbers 0 to `count` − 1 stands last in `of_M`, which rises; −1: nowhere."""
    if (of_M[1:] < of_M[:-1]).any() or (of_M[:1] < 0).any() or (of_M[-1:] >= count).any():
        raise ValueError(f"BlockInfo.documents: the {kind}s are not sorted, or one is not from 0 to {count - 1}")
    last = np.full(count, -1, np.int64)
    last[of_M] = np.arange(len(of_M))
    return last


def document_means(x_N: jax.Array, documents: Documents) -> jax.Array:
    """The mean of each document's blocks, weighted by its tokens in them. It must not be sharded.

    Args:
      x_N: f32[N], such as losses. NaN and infinite numbers are left out.
      documents: of the N blocks.

    Returns:
      f32[D]; NaN for a document of which no block has a number.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> info = schedule.BlockInfo(2, documents=([0, 0, 1], [0, 1, 1], [3, 1, 4]))
      >>> documents = schedule.documents_of(info, policy="mine")
      >>> schedule.document_means(jnp.array([2.0, 7.0]), documents).tolist()
      [2.0, 6.0]
    """
    order_M = documents.order
    x_M, document_M, tokens_M = x_N[documents.block[order_M]], documents.document[order_M], documents.tokens[order_M]
    return means(x_M, document_M, tokens_M, documents.last_of_document)


def block_means(x_D: jax.Array, documents: Documents) -> jax.Array:
    """The mean of each block's documents, weighted by their tokens in it. It must not be sharded.

    Args:
      x_D: f32[D], such as what `document_means` gives. NaN and infinite numbers are left out.
      documents: D of them, in N blocks.

    Returns:
      f32[N]; NaN for a block of which no document has a number.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> info = schedule.BlockInfo(2, documents=([0, 0, 1], [0, 1, 1], [3, 1, 4]))
      >>> documents = schedule.documents_of(info, policy="mine")
      >>> schedule.block_means(jnp.array([2.0, 6.0]), documents).tolist()
      [3.0, 6.0]
    """
    return means(x_D[documents.document], documents.block, documents.tokens, documents.last_of_block)


@jax.jit  # or every call outside of a jit would compile the scan again
def means(x_M: jax.Array, of_M: jax.Array, tokens_M: jax.Array, last_G: jax.Array) -> jax.Array:
    """f32[G]: the weighted mean of each run of equal `of_M`, which ends at `last_G`."""
    known_M = jnp.isfinite(x_M)
    weight_M = jnp.where(known_M, tokens_M, 0).astype(jnp.float32)
    mean_M, total_M = running_means(of_M, jnp.where(known_M, x_M, 0.0), weight_M)
    return jnp.where((last_G >= 0) & (total_M[last_G] > 0), mean_M[last_G], jnp.nan)
