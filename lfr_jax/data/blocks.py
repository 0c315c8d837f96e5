"""A store's blocks: its sources cut into equal lengths, numbered, and read in any order."""

import functools

import numpy as np

from lfr_jax.data.documents import Documents
from lfr_jax.data.store import Store


class Blocks:
    """The N blocks of a store, numbered source by source. N may be 1e8 and more.

    Block i of a source has T = `seq_len` inputs, the tokens from i·T on, and as many targets, each one token later. So
    it reads T + 1 tokens. What is left at the end of a source is in no block, and neither is a source of T tokens or
    fewer. Pickles as its store does.

    Attributes:
      num_blocks: N.
      num_tokens: N · T, the inputs of all blocks.
      domains: the names of the domains; `domain_N` has an index into them for each block.
      bucket_N: index of each block's length, if blocks have several lengths (`LengthBlocks`); otherwise None.

    Raises:
      ValueError: no source is longer than `seq_len`.

    >>> blocks = Blocks(open_store("data/smoke/train"), seq_len=128)  # doctest: +SKIP
    >>> blocks.tokens(np.array([0, 7])).shape  # doctest: +SKIP
    (2, 129)
    """

    bucket_N: np.ndarray | None = None

    def __init__(self, store: Store, seq_len: int):
        self.store, self.seq_len, self.domains = store, seq_len, store.domains
        count_S = np.array([source.count for source in store.sources])
        if not 1 <= seq_len < count_S.max():
            raise ValueError(
                f"{store.path}: found seq_len={seq_len} and sources of up to {count_S.max()} tokens; "
                f"expected 1 <= seq_len < {count_S.max()}; shorten the sequence or prepare more text"
            )
        self.count_S = count_S
        self.blocks_S = blocks_S = np.maximum(count_S - 1, 0) // seq_len
        self.start_S = np.array([source.first for source in store.sources])  # first token
        self.first_S = np.cumsum(blocks_S) - blocks_S  # first block
        self.num_blocks = int(blocks_S.sum())
        self.num_tokens = self.num_blocks * seq_len

    @functools.cached_property
    def domain_N(self) -> np.ndarray:
        """int32[N]: each block's index into `domains`."""
        domain_S = np.array([self.domains.index(source.domain) for source in self.store.sources], np.int32)
        return np.repeat(domain_S, self.blocks_S)

    @property
    def settings(self) -> dict[str, int | str]:
        """The settings that decide what the blocks are. One store and equal settings give equal blocks."""
        return {"seq_len": self.seq_len}

    @property
    def too_short(self) -> str:
        """Why a source has no block, for a warning: "sources have ..."."""
        return f"no more than seq_len={self.seq_len} tokens"

    def summary(self) -> str:
        """One line about what the blocks hold; "" if there is nothing to say."""
        return ""

    def source_of(self, ids: np.ndarray) -> np.ndarray:
        """Each block's index into `store.sources`."""
        return np.searchsorted(self.first_S, self.checked(ids), side="right") - 1

    @property
    def count_by_length(self) -> dict[int, int]:
        """The number of blocks of each length."""
        return {self.seq_len: self.num_blocks}

    def by_length(self, ids: np.ndarray) -> list[tuple[int, slice | np.ndarray]]:
        """Groups the blocks `ids` by length: pairs of a length and its positions in `ids`."""
        return [(self.seq_len, slice(None))]

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """The tokens int32[B, T+1] of the blocks `ids` [B]. The id −1 gives a row of −1.

        Raises:
          IndexError: an id is neither −1 nor a block.
        """
        ids_B = self.checked(ids)
        tokens_BxT1 = np.full((len(ids_B), self.seq_len + 1), -1, np.int32)
        tokens_BxT1[ids_B >= 0] = self.store.read(starts(self, ids_B[ids_B >= 0]), self.seq_len + 1)
        return tokens_BxT1

    def documents(self) -> Documents:
        """Which documents each block has, and how much of them. It takes 24 bytes a part and a few times that while it
        is computed; nothing is read but where documents start."""
        number_N = np.arange(self.num_blocks) - np.repeat(self.first_S, self.blocks_S)
        start_N = np.repeat(self.start_S, self.blocks_S) + number_N * self.seq_len
        first_N = np.searchsorted(self.store.doc_starts, start_N, side="right") - 1
        parts_N = np.searchsorted(self.store.doc_starts, start_N + self.seq_len - 1, side="right") - first_N
        block_M, document_M = np.repeat(np.arange(self.num_blocks), parts_N), ranges(first_N, parts_N)
        stop_D = np.append(self.store.doc_starts[1:], self.store.card.tokens)
        begin_M = np.maximum(self.store.doc_starts[document_M], start_N[block_M])
        end_M = np.minimum(stop_D[document_M], start_N[block_M] + self.seq_len)
        return Documents(block_M, document_M, end_M - begin_M)

    def checked(self, ids: np.ndarray) -> np.ndarray:
        """`ids` as int64. Raises IndexError unless each is −1 or a block."""
        ids = np.asarray(ids, np.int64)
        wrong = ids[(ids < -1) | (ids >= self.num_blocks)]
        if len(wrong):
            raise IndexError(f"found block id {wrong[0]}; expected -1 (padding) or 0 to {self.num_blocks - 1}")
        return ids

    def __reduce__(self):
        return type(self), (self.store, self.seq_len)


def starts(blocks: Blocks, ids_R: np.ndarray) -> np.ndarray:
    """Where blocks begin that are concatenated, so of no subclass: int64[R], the position in the store of their first
    tokens."""
    source_R = np.searchsorted(blocks.first_S, ids_R, side="right") - 1
    return blocks.start_S[source_R] + (ids_R - blocks.first_S[source_R]) * blocks.seq_len


def ranges(start_R: np.ndarray, length_R: np.ndarray) -> np.ndarray:
    """The positions in each of R ranges, range after range: int64[sum of the lengths].

    >>> ranges(np.array([10, 0, 5]), np.array([2, 0, 3]))
    array([10, 11,  5,  6,  7])
    """
    length_R = np.asarray(length_R, np.int64)
    stop_R = np.cumsum(length_R)
    return np.repeat(start_R - (stop_R - length_R), length_R) + np.arange(length_R.sum())
