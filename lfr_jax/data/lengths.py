"""Blocks of several lengths, each from one document: dataset decomposition.

A document of n tokens becomes as many blocks of `seq_len` tokens as it fills, then one block for each binary digit
of the rest, longest first; what is shorter than `shortest` is left out. The blocks of one length are a bucket. Where
a block lies in its document follows from n and its length alone, so memory goes with documents, not with blocks.
"""

import functools

import numpy as np

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import Store

AT_ONCE = 1 << 20  # blocks looked at together


class LengthBlocks(Blocks):
    """A store's blocks of `seq_len`, `seq_len` / 2, ..., `shortest` tokens, numbered document by document.

    Every token of a document is the target of one block, or of none if it is left out. What comes before a block is
    its first input: the token before it in the document or, where the document begins, end-of-text.

    Memory is 12 bytes a document, and 5 a block once `bucket_N` and `domain_N` were looked at. Pickles as
    its store does.

    Args:
      store: of documents; `store.eos_id` is what a document begins after.
      seq_len, shortest: powers of two.

    Raises:
      ValueError: a length is no power of two, `shortest` is the longer one, or no document is as long as `shortest`.

    References:
      Pouransari et al. 2024, "Dataset Decomposition", arXiv 2405.13226, section 2.1.
    """

    def __init__(self, store: Store, seq_len: int, shortest: int):
        if not (power_of_two(seq_len) and power_of_two(shortest) and shortest <= seq_len):
            raise ValueError(
                f"found data.seq_len={seq_len} and data.shortest={shortest}, expected two powers of two, data.shortest "
                "not the longer one: blocks of several lengths are halves of one another"
            )
        self.store, self.seq_len, self.shortest, self.domains = store, seq_len, shortest, store.domains
        self.lengths = tuple(seq_len >> g for g in range((seq_len // shortest).bit_length()))  # of bucket 0, 1, ...
        count_D = np.diff(store.doc_starts, append=store.card.tokens)
        blocks_D = count_D // seq_len + np.bitwise_count(count_D % seq_len // shortest)
        ends_D1 = np.append(0, np.cumsum(blocks_D))
        self.first_D = ends_D1[:-1].astype(np.uint32)  # first block
        self.num_blocks = int(ends_D1[-1])
        self.num_tokens = int(np.sum(count_D // shortest * shortest))  # of all blocks: inputs, and as many targets
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
        """int8[N]: index into `lengths` of each block."""
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
        """How the tokens of the store are spread over the lengths, and how many are left out."""
        total = self.store.card.tokens
        shares = "  ".join(f"{T} {100 * n * T / total:.1f} %" for T, n in self.count_by_length.items())
        return f"tokens in blocks of  {shares}  left out {100 * (1 - self.num_tokens / total):.1f} %"

    @property
    def count_by_length(self) -> dict[int, int]:
        """How many blocks there are of each length, the longest first."""
        blocks_G = np.bincount(self.bucket_N, minlength=len(self.lengths))
        return dict(zip(self.lengths, blocks_G.tolist()))

    def by_length(self, ids: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """The blocks `ids`, parted by length: each length that is among them, and its places in `ids`."""
        bucket_B = self.bucket_N[ids]
        places = [np.flatnonzero(bucket_B == g) for g in range(len(self.lengths))]
        return [(length, some) for length, some in zip(self.lengths, places) if len(some)]

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """The tokens int32[B, T+1] of the blocks `ids` [B], all of one length T; the id −1 gives a row of −1.

        Raises:
          IndexError: an id is neither −1 nor a block.
          ValueError: the blocks have several lengths, or all ids are −1.
        """
        ids_B = self.checked(ids)
        start_R, place_R, bucket_R = self.locate(ids_B[ids_B >= 0])
        lengths = [self.lengths[g] for g in np.unique(bucket_R)]
        if len(lengths) != 1:
            raise ValueError(f"found blocks of lengths {lengths}, expected blocks of one length, and at least one")
        (length,) = lengths
        begins_R = place_R == 0
        tokens_RxT1 = np.empty((len(start_R), length + 1), np.int32)
        tokens_RxT1[begins_R, 0] = self.store.eos_id
        tokens_RxT1[begins_R, 1:] = self.store.read(start_R[begins_R], length)
        tokens_RxT1[~begins_R] = self.store.read(start_R[~begins_R] - 1, length + 1)
        tokens_BxT1 = np.full((len(ids_B), length + 1), -1, np.int32)
        tokens_BxT1[ids_B >= 0] = tokens_RxT1
        return tokens_BxT1

    def locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first token of each block (not of padding), its place in the document, and its bucket."""
        starts = self.store.doc_starts
        doc_B = np.searchsorted(self.first_D, ids.astype(np.uint32), side="right") - 1
        ends_B = np.where(doc_B + 1 < len(starts), starts.take(doc_B + 1, mode="clip"), self.store.card.tokens)
        count_B = ends_B - starts[doc_B]
        number_B = ids - self.first_D[doc_B]
        place_B, bucket_B = number_B * self.seq_len, np.zeros(len(ids), np.int8)
        left_B = number_B - count_B // self.seq_len  # blocks before it among those shorter than seq_len; < 0: is none
        for bucket, length in enumerate(self.lengths[1:], start=1):
            digit_B = (count_B & length) > 0
            here_B = digit_B & (left_B == 0)
            bucket_B[here_B] = bucket
            place_B[here_B] = count_B[here_B] & -(2 * length)  # the digits above are the blocks before it
            left_B -= digit_B
        return starts[doc_B] + place_B, place_B, bucket_B

    def __reduce__(self):
        return LengthBlocks, (self.store, self.seq_len, self.shortest)


def power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
