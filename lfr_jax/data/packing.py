"""Best-fit packing: blocks of complete documents, filled up with padding.

Concatenation cuts a document wherever a block ends. Here a document is cut only if it is longer than a block: into full
rows, which overlap by one token as concatenated blocks do, and a rest. Rests and short documents are the items
that share rows, as in bin packing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830).
"""

import numpy as np

from lfr_jax.data.blocks import Blocks, ranges
from lfr_jax.data.documents import Documents
from lfr_jax.data.store import Store


class PackedBlocks(Blocks):
    """A store's blocks of `seq_len` inputs and targets, each from one source, numbered source by source.

    In a source, the full rows of long documents come first, then the rows that items share. Each token of a document,
    except for its first, is a target of one block, and the token before it is the input. So a document of one token is
    in no block. In a shared row, every item but the last ends with end-of-text; if its document has none there, it
    replaces the item's last token.

    Equal stores give equal blocks. Sources that are appended do not change the blocks before them. Pickles as its store
    does; the other process packs again.

    Attributes:
      padding: share of the rows' positions that hold no token.

    Raises:
      ValueError: `seq_len` is below 1, or no document has two tokens.
    """

    def __init__(self, store: Store, seq_len: int):
        self.store, self.seq_len, self.domains = store, seq_len, store.domains
        if seq_len < 1:
            raise ValueError(f"{store.path}: found seq_len={seq_len}, expected 1 or more")
        self.count_S = np.array([source.count for source in store.sources])
        bounds_S1 = np.searchsorted(store.doc_starts, np.append(0, np.cumsum(self.count_S)))  # documents
        number = np.min_scalar_type(len(store.doc_starts))  # the number type of document numbers

        targets_D = np.diff(store.doc_starts, append=store.card.tokens) - 1
        self.long_L = np.flatnonzero(targets_D >= seq_len).astype(number)  # documents that fill rows
        self.full_L1 = np.append(0, np.cumsum(targets_D[self.long_L] // seq_len))  # full rows before each of them
        self.full_S1 = self.full_L1[np.searchsorted(self.long_L, bounds_S1)]
        rest_D = (targets_D % seq_len).astype(np.min_scalar_type(seq_len + 1))
        del targets_D  # 8 bytes a document

        shared_S = [pack_rests(rest_D[first:stop], seq_len + 1) for first, stop in zip(bounds_S1, bounds_S1[1:])]
        documents_S = [(first + order_P).astype(number) for first, (order_P, _) in zip(bounds_S1, shared_S)]
        self.document_P = np.concatenate(documents_S)  # the document of each item, row after row
        items_R = np.concatenate([items_R for _, items_R in shared_S])
        self.item_R1 = np.append(0, np.cumsum(items_R))  # items before each shared row
        self.shared_S1 = np.append(0, np.cumsum([len(items_R) for _, items_R in shared_S]))

        self.blocks_S = np.diff(self.full_S1) + np.diff(self.shared_S1)
        self.first_S = np.cumsum(self.blocks_S) - self.blocks_S
        self.num_blocks = int(self.blocks_S.sum())
        if not self.num_blocks:
            raise ValueError(f"{store.path}: found no document of two tokens or more, so nothing to predict")
        self.num_tokens = self.num_blocks * seq_len  # with padding, which costs as much time
        tokens = int(self.full_L1[-1]) * (seq_len + 1) + int(rest_D.sum(dtype=np.int64)) + len(self.document_P)
        self.padding = 1 - tokens / (self.num_blocks * (seq_len + 1))

    @property
    def settings(self) -> dict[str, int | str]:
        return {"seq_len": self.seq_len, "packing": "best_fit"}

    @property
    def too_short(self) -> str:
        return "no document of two tokens"

    def summary(self) -> str:
        """How much of the blocks is padding, and how many documents are cut, here and under concatenation."""
        store, row = self.store, self.seq_len + 1
        first_S = np.array([source.first for source in store.sources])
        documents_S = np.diff(np.searchsorted(store.doc_starts, np.append(first_S, store.card.tokens)))
        length_D = np.diff(store.doc_starts, append=store.card.tokens)
        begin_D = (store.doc_starts - np.repeat(first_S, documents_S)) % self.seq_len  # in a concatenated block
        here, concatenated = np.mean(length_D > row), np.mean(begin_D + length_D > row)
        return (
            f"best-fit packing: {100 * self.padding:.2f} % padding, {100 * here:.1f} % of the documents are cut "
            f"(concatenated: {100 * concatenated:.1f} %)"
        )

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """As `Blocks.tokens`; −1 is padding at the end of a row."""
        ids_B = self.checked(ids)
        tokens_BxT1 = np.full((len(ids_B), self.seq_len + 1), -1, np.int32)
        (real_R,) = np.nonzero(ids_B >= 0)
        source_R = self.source_of(ids_B[real_R])
        number_R = ids_B[real_R] - self.first_S[source_R]
        shared_R = number_R - np.diff(self.full_S1)[source_R]
        is_full_R = shared_R < 0
        tokens_BxT1[real_R[is_full_R]] = self.full_rows(number_R[is_full_R] + self.full_S1[source_R[is_full_R]])
        self.write_shared_rows(tokens_BxT1, real_R[~is_full_R], (shared_R + self.shared_S1[source_R])[~is_full_R])
        return tokens_BxT1

    def documents(self) -> Documents:
        """As `Blocks.documents`. A full row is of one document; in a shared row, all tokens of an item count."""
        long_F = np.repeat(self.long_L, np.diff(self.full_L1))
        full_F = np.arange(len(long_F)) + np.repeat(self.first_S - self.full_S1[:-1], np.diff(self.full_S1))
        first_S = self.first_S + np.diff(self.full_S1) - self.shared_S1[:-1]
        shared_R = np.arange(self.shared_S1[-1]) + np.repeat(first_S, np.diff(self.shared_S1))
        length_D = np.diff(self.store.doc_starts, append=self.store.card.tokens)
        items_P = (length_D[self.document_P] - 1) % self.seq_len + 1
        block_M = np.concatenate([full_F, np.repeat(shared_R, np.diff(self.item_R1))])
        document_M = np.concatenate([long_F, self.document_P]).astype(np.int64)
        tokens_M = np.concatenate([np.full(len(full_F), self.seq_len), items_P])
        order_M = np.argsort(block_M, kind="stable")
        return Documents(block_M[order_M], document_M[order_M], tokens_M[order_M])

    def full_rows(self, number_R: np.ndarray) -> np.ndarray:
        """int32[R, T+1]: the full rows of these numbers. They are counted through all sources."""
        long_R = np.searchsorted(self.full_L1, number_R, side="right") - 1
        start_R = self.store.doc_starts[self.long_L[long_R]] + (number_R - self.full_L1[long_R]) * self.seq_len
        return self.store.read(start_R, self.seq_len + 1)

    def write_shared_rows(self, tokens_BxT1: np.ndarray, row_R: np.ndarray, number_R: np.ndarray) -> None:
        """Writes shared rows into the rows `row_R`. Their numbers are counted through all sources."""
        items_R = self.item_R1[number_R + 1] - self.item_R1[number_R]
        document_P = self.document_P[ranges(self.item_R1[number_R], items_R)].astype(np.int64)
        stop_P = self.store.doc_starts.take(document_P + 1, mode="clip")
        stop_P[document_P + 1 == len(self.store.doc_starts)] = self.store.card.tokens
        length_P = (stop_P - self.store.doc_starts[document_P] - 1) % self.seq_len + 1
        behind_P = np.cumsum(length_P)
        before_R = np.append(0, behind_P)[np.cumsum(items_R) - items_R]
        row_P = np.repeat(row_R, items_R)
        begin_P = row_P * (self.seq_len + 1) + behind_P - length_P - np.repeat(before_R, items_R)
        flat = tokens_BxT1.reshape(-1)
        flat[ranges(begin_P, length_P)] = read_spans(self.store, stop_P - length_P, length_P)
        last_P = begin_P + length_P - 1
        flat[last_P[:-1][row_P[1:] == row_P[:-1]]] = self.store.eos_id


def pack_rests(rest_D: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Packs the rests of documents into rows.

    Args:
      rest_D: the targets of each rest; 0: there is none.
      capacity: tokens in a row.

    Returns:
      The document of each item, row after row; the number of items in each row.
    """
    (document_P,) = np.nonzero(rest_D)
    row_P = best_fit(rest_D[document_P] + 1, capacity)
    return document_P[np.argsort(row_P, kind="stable")], np.bincount(row_P)


def best_fit(length_P: np.ndarray, capacity: int) -> np.ndarray:
    """Finds a row for each item: best-fit decreasing.

    Items come in order of length, the longest first. Each goes into the row with the least room that is enough, or else
    begins a new row. All items of one length are placed at once, and all rows of equal room are filled at once. So the
    time is that of sorting P lengths, plus some 2 · `capacity` array operations. The result is the same as placing
    item by item.

    Args:
      length_P: int[P], 1 to `capacity`.

    Returns:
      unsigned int[P]: the row of each item, 0 to the number of rows − 1, numbered in the order in which they begin.

    >>> best_fit(np.array([2, 5, 3, 4]), 7)
    array([0, 0, 1, 1], dtype=uint8)
    """
    # NumPy sorts numbers of 16 bits and fewer in linear time.
    order_P = np.argsort((capacity - length_P).astype(np.min_scalar_type(capacity)), kind="stable")
    items_L = np.bincount(length_P, minlength=capacity + 1)
    row_P = np.empty(len(length_P), np.min_scalar_type(len(length_P)))
    open_C: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]  # rows by the room that they have left
    count_C = np.zeros(capacity + 1, np.int64)
    rows = placed = 0
    for length in np.flatnonzero(items_L)[::-1].tolist():
        left = int(items_L[length])
        for room in [*(length + np.flatnonzero(count_C[length:capacity])).tolist(), capacity]:
            # A row stays the best one until it has no room for another item of this length.
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
            full, over = divmod(now, each)
            for some_R, smaller in ((chosen_R[:full], room - each * length), (chosen_R[full:], room - over * length)):
                open_C[smaller].append(some_R)
                count_C[smaller] += len(some_R)
            if not left:
                break
    return row_P


def read_spans(store: Store, start_P: np.ndarray, length_P: np.ndarray) -> np.ndarray:
    """int32[sum of the lengths]: the tokens of P spans, one after the other.

    A store reads spans of one length at a time. So each span is read as two that overlap: from its start, and up to its
    end, both as long as the largest power of two in it. Few different lengths are left.
    """
    found = np.empty(length_P.sum(), np.int32)
    at_P = np.cumsum(length_P) - length_P
    size_P = 1 << (np.frexp(length_P)[1] - 1)
    for size in np.unique(size_P).tolist():
        of_size_P = size_P == size
        for late_P in (0, length_P[of_size_P] - size):
            position_PxT = (at_P[of_size_P] + late_P)[:, None] + np.arange(size)
            found[position_PxT] = store.read(start_P[of_size_P] + late_P, size)
    return found
