"""A store's blocks: equal lengths of its sources, numbered, and read at random."""

import functools

import numpy as np

from lfr_jax.data.store import Store


class Blocks:
    """A store's blocks of `seq_len` tokens, numbered source by source. N of them, N up to 1e8 and more.

    Tokens after the last whole block of a source are in no block; nor is a source of `seq_len`
    tokens or fewer, all of it. Pickles as its store does.

    Raises:
      ValueError: no source is longer than `seq_len`.
    """

    bucket_N: np.ndarray | None = None  # of several lengths, the number of each block's: here there is one

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
        self.num_tokens = self.num_blocks * seq_len  # of all blocks: inputs, and as many targets

    @functools.cached_property
    def domain_N(self) -> np.ndarray:
        """int32[N]: index into `domains` of each block."""
        domain_S = np.array([self.domains.index(source.domain) for source in self.store.sources], np.int32)
        return np.repeat(domain_S, self.blocks_S)

    @property
    def settings(self) -> dict[str, int | str]:
        """The settings by which the blocks were cut: blocks of one store with equal ones are the same."""
        return {"seq_len": self.seq_len}

    @property
    def too_short(self) -> str:
        """What a source without a block has, in words."""
        return f"no more than seq_len={self.seq_len} tokens"

    def summary(self) -> str:
        """What became of the documents, in a line; "" where there is nothing to say."""
        return ""

    def source_of(self, ids: np.ndarray) -> np.ndarray:
        """The index into `store.sources` of each block."""
        return np.searchsorted(self.first_S, self.checked(ids), side="right") - 1

    @property
    def count_by_length(self) -> dict[int, int]:
        """How many blocks there are of each length."""
        return {self.seq_len: self.num_blocks}

    def by_length(self, ids: np.ndarray) -> list[tuple[int, slice | np.ndarray]]:
        """The blocks `ids`, parted by length: each length that is among them, and its places in `ids`."""
        return [(self.seq_len, slice(None))]

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """The tokens int32[B, T+1] of the blocks `ids` [B]; the id −1 gives a row of −1.

        Raises:
          IndexError: an id is neither −1 nor a block.
        """
        ids_B = self.checked(ids)
        real_R = ids_B[ids_B >= 0]
        source_R = np.searchsorted(self.first_S, real_R, side="right") - 1
        start_R = self.start_S[source_R] + (real_R - self.first_S[source_R]) * self.seq_len
        tokens_BxT1 = np.full((len(ids_B), self.seq_len + 1), -1, np.int32)
        tokens_BxT1[ids_B >= 0] = self.store.read(start_R, self.seq_len + 1)
        return tokens_BxT1

    def checked(self, ids: np.ndarray) -> np.ndarray:
        ids = np.asarray(ids, np.int64)
        wrong = ids[(ids < -1) | (ids >= self.num_blocks)]
        if len(wrong):
            raise IndexError(f"found block id {wrong[0]}; expected -1 (padding) or 0 to {self.num_blocks - 1}")
        return ids

    def __reduce__(self):
        return type(self), (self.store, self.seq_len)


def ranges(start_R: np.ndarray, length_R: np.ndarray) -> np.ndarray:
    """int64[sum of the lengths]: the positions in each run, run after run.

    >>> ranges(np.array([10, 0, 5]), np.array([2, 0, 3]))
    array([10, 11,  5,  6,  7])
    """
    length_R = np.asarray(length_R, np.int64)
    stop_R = np.cumsum(length_R)
    return np.repeat(start_R - (stop_R - length_R), length_R) + np.arange(length_R.sum())
