"""Best-fit packing: blocks of whole documents, as many as there is room for, and padding behind them.

Concatenation cuts a document wherever a block happens to end. Here it is cut only if it is longer than a block: into
full rows, which overlap by one token as concatenated blocks do, and a rest. Rests and short documents are the
pieces that share rows (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830).
"""

import numpy as np

from lfr_jax.data.blocks import Blocks, ranges
from lfr_jax.data.store import Store


class PackedBlocks(Blocks):
    """A store's blocks of `seq_len` inputs and their targets, each of one source, numbered source by source.

    Of a source, the full rows of long documents come first, then the rows that pieces share. Each token of a
    document but its first is a target of one block, in which the token before it is the input; so a document of one
    token is in no block. A piece that another one follows ends with end-of-text, which takes the place of its last
    token where the document has none.

    Equal stores give equal blocks, and sources that are appended leave the old ones as they were. It pickles as its
    store does, and is worked out again in the other process.

    Raises:
      ValueError: `seq_len` is below 1, or no document has two tokens.
    """

    def __init__(self, store: Store, seq_len: int):
        self.store, self.seq_len, self.domains = store, seq_len, store.domains
        if seq_len < 1:
            raise ValueError(f"{store.path}: found seq_len={seq_len}, expected 1 or more")
        self.count_S = np.array([source.count for source in store.sources])
        bounds_S1 = np.searchsorted(store.doc_starts, np.append(0, np.cumsum(self.count_S)))  # documents
        number = np.min_scalar_type(len(store.doc_starts))  # the type of a document's number

        targets_D = np.diff(store.doc_starts, append=store.card.tokens) - 1
        self.long_L = np.flatnonzero(targets_D >= seq_len).astype(number)  # documents that fill rows
        self.full_L1 = np.append(0, np.cumsum(targets_D[self.long_L] // seq_len))  # full rows before each of them
        self.full_S1 = self.full_L1[np.searchsorted(self.long_L, bounds_S1)]
        rest_D = (targets_D % seq_len).astype(np.min_scalar_type(seq_len + 1))
        del targets_D  # 8 bytes a document

        shared_S = [pack_rests(rest_D[first:stop], seq_len + 1) for first, stop in zip(bounds_S1, bounds_S1[1:])]
        documents_S = [(first + order_P).astype(number) for first, (order_P, _) in zip(bounds_S1, shared_S)]
        self.document_P = np.concatenate(documents_S)  # that each piece is of, row after row
        pieces_R = np.concatenate([pieces_R for _, pieces_R in shared_S])
        self.piece_R1 = np.append(0, np.cumsum(pieces_R))  # pieces before each shared row
        self.shared_S1 = np.append(0, np.cumsum([len(pieces_R) for _, pieces_R in shared_S]))

        self.blocks_S = np.diff(self.full_S1) + np.diff(self.shared_S1)
        self.first_S = np.cumsum(self.blocks_S) - self.blocks_S
        self.num_blocks = int(self.blocks_S.sum())
        if not self.num_blocks:
            raise ValueError(f"{store.path}: found no document of two tokens or more, so nothing to predict")
        self.num_tokens = self.num_blocks * seq_len  # with padding, which is computed as well
        tokens = int(self.full_L1[-1]) * (seq_len + 1) + int(rest_D.sum(dtype=np.int64)) + len(self.document_P)
        self.padding = 1 - tokens / (self.num_blocks * (seq_len + 1))  # share of the rows' places

    @property
    def settings(self) -> dict[str, int | str]:
        return {"seq_len": self.seq_len, "packing": "best_fit"}

    @property
    def too_short(self) -> str:
        return "no document of two tokens"

    def summary(self) -> str:
        """How much of the blocks is padding, and how many documents are cut: here, and if they were concatenated."""
        store, whole = self.store, self.seq_len + 1
        first_S = np.array([source.first for source in store.sources])
        documents_S = np.diff(np.searchsorted(store.doc_starts, np.append(first_S, store.card.tokens)))
        length_D = np.diff(store.doc_starts, append=store.card.tokens)
        begin_D = (store.doc_starts - np.repeat(first_S, documents_S)) % self.seq_len  # in a concatenated block
        here, concatenated = np.mean(length_D > whole), np.mean(begin_D + length_D > whole)
        return (
            f"best-fit packing: {100 * self.padding:.2f} % padding, {100 * here:.1f} % of the documents are cut "
            f"(concatenated: {100 * concatenated:.1f} %)"
        )

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """As of `Blocks`; −1 fills a row up."""
        ids_B = self.checked(ids)
        tokens_BxT1 = np.full((len(ids_B), self.seq_len + 1), -1, np.int32)
        (real_R,) = np.nonzero(ids_B >= 0)
        source_R = self.source_of(ids_B[real_R])
        number_R = ids_B[real_R] - self.first_S[source_R]
        shared_R = number_R - np.diff(self.full_S1)[source_R]
        is_full_R = shared_R < 0
        tokens_BxT1[real_R[is_full_R]] = self.full(number_R[is_full_R] + self.full_S1[source_R[is_full_R]])
        self.fill(tokens_BxT1, real_R[~is_full_R], (shared_R + self.shared_S1[source_R])[~is_full_R])
        return tokens_BxT1

    def full(self, number_R: np.ndarray) -> np.ndarray:
        """int32[R, T+1]: the full rows of these numbers, counted over all sources."""
        long_R = np.searchsorted(self.full_L1, number_R, side="right") - 1
        start_R = self.store.doc_starts[self.long_L[long_R]] + (number_R - self.full_L1[long_R]) * self.seq_len
        return self.store.read(start_R, self.seq_len + 1)

    def fill(self, tokens_BxT1: np.ndarray, row_R: np.ndarray, number_R: np.ndarray) -> None:
        """Writes the shared rows of these numbers, counted over all sources, into the rows `row_R`."""
        pieces_R = self.piece_R1[number_R + 1] - self.piece_R1[number_R]
        document_P = self.document_P[ranges(self.piece_R1[number_R], pieces_R)].astype(np.int64)
        stop_P = self.store.doc_starts.take(document_P + 1, mode="clip")
        stop_P[document_P + 1 == len(self.store.doc_starts)] = self.store.card.tokens
        length_P = (stop_P - self.store.doc_starts[document_P] - 1) % self.seq_len + 1
        behind_P = np.cumsum(length_P)
        before_R = np.append(0, behind_P)[np.cumsum(pieces_R) - pieces_R]
        row_P = np.repeat(row_R, pieces_R)
        begin_P = row_P * (self.seq_len + 1) + behind_P - length_P - np.repeat(before_R, pieces_R)
        flat = tokens_BxT1.reshape(-1)
        flat[ranges(begin_P, length_P)] = read_spans(self.store, stop_P - length_P, length_P)
        last_P = begin_P + length_P - 1
        flat[last_P[:-1][row_P[1:] == row_P[:-1]]] = self.store.eos_id


def pack_rests(rest_D: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts the rests of documents, so many targets each, into rows: which ones, row after row; how many in each row."""
    (document_P,) = np.nonzero(rest_D)
    row_P = best_fit(rest_D[document_P] + 1, capacity)
    return document_P[np.argsort(row_P, kind="stable")], np.bincount(row_P)


def best_fit(length_P: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each piece: from the longest piece on, the row with the least room that is enough, or else a new one.

    Pieces of one length are placed together, in the rows of one room together. So the time is that of sorting P
    lengths, and of some 2 · `capacity` operations on arrays of rows; the counts are those of placing one by one.

    Args:
      length_P: 1 to `capacity`.

    Returns:
      unsigned int[P]: 0 to the number of rows − 1, numbered in the order in which they are begun.

    >>> best_fit(np.array([2, 5, 3, 4]), 7)
    array([0, 0, 1, 1], dtype=uint8)
    """
    # Of 16 bits and fewer, numbers are sorted in linear time.
    order_P = np.argsort((capacity - length_P).astype(np.min_scalar_type(capacity)), kind="stable")
    pieces_L = np.bincount(length_P, minlength=capacity + 1)
    row_P = np.empty(len(length_P), np.min_scalar_type(len(length_P)))
    open_C: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]  # rows by the room that is left in them
    count_C = np.zeros(capacity + 1, np.int64)
    rows = placed = 0
    for length in np.flatnonzero(pieces_L)[::-1].tolist():
        left = int(pieces_L[length])
        for room in [*(length + np.flatnonzero(count_C[length:capacity])).tolist(), capacity]:
            # A row stays the best one until there is no room in it for another piece of this length.
            each = room // length
            wanted = -(-left // each)
            if room == capacity:
                chosen_R = np.arange(rows, rows + wanted, dtype=row_P.dtype)
                rows += wanted
            else:
                chosen_R, rest_R = np.split(np.concatenate(open_C[room]), [wanted])
                open_C[room], count_C[room] = [rest_R], len(rest_R)
            now = min(left, len(chosen_R) * each)
            row_P[order_P[placed : placed + now]] = np.repeat(chosen_R, each)[:now]
            placed, left = placed + now, left - now
            whole, over = divmod(now, each)
            for some_R, smaller in ((chosen_R[:whole], room - each * length), (chosen_R[whole:], room - over * length)):
                open_C[smaller].append(some_R)
                count_C[smaller] += len(some_R)
            if not left:
                break
    return row_P


def read_spans(store: Store, start_P: np.ndarray, length_P: np.ndarray) -> np.ndarray:
    """int32[sum of the lengths]: runs of tokens, one after the other.

    A store reads runs of equal length. So each is read as two that overlap, both as long as the largest power of two
    in it: one from its start on, one up to its end.
    """
    found = np.empty(length_P.sum(), np.int32)
    at_P = np.cumsum(length_P) - length_P
    size_P = 1 << (np.frexp(length_P)[1] - 1)
    for size in np.unique(size_P).tolist():
        of_size_P = size_P == size
        for late_P in (0, length_P[of_size_P] - size):
            places_PxT = (at_P[of_size_P] + late_P)[:, None] + np.arange(size)
            found[places_PxT] = store.read(start_P[of_size_P] + late_P, size)
    return found
