"""Blocks of several lengths, each from one document: dataset decomposition.

A document of n tokens first fills blocks of `seq_len` tokens. The rest becomes one block for each binary digit 1 of its
length, longest first; what is shorter than `shortest` is left out. With `seq_len` 8 and `shortest` 2, a document of
23 tokens has blocks of 8, 8, 4 and 2 tokens, and one token is left out.

The blocks of one length are a bucket. Where a block lies in its document follows from n, so memory grows with the
number of documents, not of blocks.
"""

import functools

import numpy as np

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.documents import Documents
from lfr_jax.data.store import Store

AT_ONCE = 1 << 20  # blocks located at once


class LengthBlocks(Blocks):
    """A store's blocks of `seq_len`, `seq_len` / 2, ..., `shortest` tokens, numbered document by document.

    Every token of a document is a target of one block, unless it is left out. The first input of a block is the token
    before its first target; at the beginning of a document, that is end-of-text.

    Memory is 12 bytes a document, and 5 bytes a block once `bucket_N` and `domain_N` are computed. Pickles as its
    store does.

    Args:
      store: the documents.
      seq_len, shortest: powers of two.

    Attributes:
      lengths: the length of bucket 0, 1, ..., the longest first.
      bucket_N: each block's index into `lengths`.

    Raises:
      ValueError: a length is no power of two, `shortest` > `seq_len`, or no document is as long as `shortest`.

    References:
      Pouransari et al. 2024, "Dataset Decomposition", arXiv 2405.13226, section 2.1.
    """

    def __init__(self, store: Store, seq_len: int, shortest: int):
        if not (power_of_two(seq_len) and power_of_two(shortest) and shortest <= seq_len):
            raise ValueError(
                f"found data.seq_len={seq_len} and data.shortest={shortest}, expected two powers of two, data.shortest "
                "at most data.seq_len: blocks of several lengths are halves of one another"
            )
        self.store, self.seq_len, self.shortest, self.domains = store, seq_len, shortest, store.domains
        self.lengths = tuple(seq_len >> g for g in range((seq_len // shortest).bit_length()))  # of bucket 0, 1, ...
        count_D = np.diff(store.doc_starts, append=store.card.tokens)
        blocks_D = count_D // seq_len + np.bitwise_count(count_D % seq_len // shortest)
        ends_D1 = np.append(0, np.cumsum(blocks_D))
        self.first_D = ends_D1[:-1].astype(np.uint32)  # first block
        self.num_blocks = int(ends_D1[-1])
        self.num_tokens = int(np.sum(count_D // shortest * shortest))
        if not self.num_blocks:
            raise ValueError(
                f"{store.path}: found documents of up to {count_D.max()} tokens and data.shortest={shortest}: no "
                "document is long enough for a block; lower data.shortest"
            )
        self.start_S = np.array([source.first for source in store.sources])
        self.count_S = np.array([source.count for source in store.sources])
        self.first_S = ends_D1[np.searchsorted(store.doc_starts, self.start_S)]  # first block
        self.blocks_S = np.diff(self.first_S, append=self.num_blocks)

    @functools.cached_property
    def bucket_N(self) -> np.ndarray:
        """int8[N]: each block's index into `lengths`."""
        bucket_N = np.empty(self.num_blocks, np.int8)
        for first in range(0, self.num_blocks, AT_ONCE):
            ids = np.arange(first, min(first + AT_ONCE, self.num_blocks))
            _, _, bucket_N[ids] = self.locate(ids)
        return bucket_N

    @property
    def settings(self) -> dict[str, int | str]:
        return {"seq_len": self.seq_len, "packing": "by_length", "shortest": self.shortest}

    @property
    def too_short(self) -> str:
        return f"no document of shortest={self.shortest} tokens"

    def summary(self) -> str:
        """Which share of the store's tokens lies in blocks of each length, and which is left out."""
        total = self.store.card.tokens
        shares = "  ".join(f"{T} {100 * n * T / total:.1f} %" for T, n in self.count_by_length.items())
        return f"tokens in blocks of  {shares}  left out {100 * (1 - self.num_tokens / total):.1f} %"

    @property
    def count_by_length(self) -> dict[int, int]:
        """The number of blocks of each length, the longest first."""
        blocks_G = np.bincount(self.bucket_N, minlength=len(self.lengths))
        return dict(zip(self.lengths, blocks_G.tolist()))

    def by_length(self, ids: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Groups the blocks `ids` by length: pairs of a length and its positions in `ids`."""
        bucket_B = self.bucket_N[ids]
        positions = [np.flatnonzero(bucket_B == g) for g in range(len(self.lengths))]
        return [(length, some) for length, some in zip(self.lengths, positions) if len(some)]

    def documents(self) -> Documents:
        """As `Blocks.documents`: each block has one."""
        blocks_D = np.diff(self.first_D.astype(np.int64), append=self.num_blocks)
        document_N = np.repeat(np.arange(len(blocks_D)), blocks_D)
        return Documents(np.arange(self.num_blocks), document_N, np.array(self.lengths)[self.bucket_N])

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """The tokens int32[B, T+1] of the blocks `ids` [B], all of one length T. The id −1 gives a row of −1.

        Raises:
          IndexError: an id is neither −1 nor a block.
          ValueError: the blocks have several lengths, or all ids are −1.
        """
        ids_B = self.checked(ids)
        start_R, offset_R, bucket_R = self.locate(ids_B[ids_B >= 0])
        lengths = [self.lengths[g] for g in np.unique(bucket_R)]
        if len(lengths) != 1:
            raise ValueError(f"found blocks of lengths {lengths}, expected blocks of one length, and at least one")
        (length,) = lengths
        begins_R = offset_R == 0
        tokens_RxT1 = np.empty((len(start_R), length + 1), np.int32)
        tokens_RxT1[begins_R, 0] = self.store.eos_id
        tokens_RxT1[begins_R, 1:] = self.store.read(start_R[begins_R], length)
        tokens_RxT1[~begins_R] = self.store.read(start_R[~begins_R] - 1, length + 1)
        tokens_BxT1 = np.full((len(ids_B), length + 1), -1, np.int32)
        tokens_BxT1[ids_B >= 0] = tokens_RxT1
        return tokens_BxT1

    def locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each block: its first token, the offset of that token in the document, and the block's bucket.

        `ids` may not hold padding.
        """
        starts = self.store.doc_starts
        doc_B = np.searchsorted(self.first_D, ids.astype(np.uint32), side="right") - 1
        ends_B = np.where(doc_B + 1 < len(starts), starts.take(doc_B + 1, mode="clip"), self.store.card.tokens)
        count_B = ends_B - starts[doc_B]
        number_B = ids - self.first_D[doc_B]
        offset_B, bucket_B = number_B * self.seq_len, np.zeros(len(ids), np.int8)
        left_B = number_B - count_B // self.seq_len  # how many shorter blocks come before; < 0: it has length seq_len
        for bucket, length in enumerate(self.lengths[1:], start=1):
            digit_B = (count_B & length) > 0
            here_B = digit_B & (left_B == 0)
            bucket_B[here_B] = bucket
            offset_B[here_B] = count_B[here_B] & -(2 * length)  # the higher digits are the blocks before
            left_B -= digit_B
        return starts[doc_B] + offset_B, offset_B, bucket_B

    def __reduce__(self):
        return LengthBlocks, (self.store, self.seq_len, self.shortest)


def power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
