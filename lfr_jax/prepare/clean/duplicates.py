"""Exact copies: of documents, and of blocks. The first one stays."""

import hashlib
from collections.abc import Iterator

import numpy as np

from lfr_jax.prepare.clean.kept import Kept, Sides

DIGEST = 16  # bytes: of 10^9 digests two are equal by chance with a probability of 10^-21


def without_documents(sides: Sides, examples: int = 0) -> tuple[Sides, list[dict]]:
    """Leaves out each document whose tokens are those of one before; held-out ones come before the others.

    Args:
      examples: So many that were left out are described.

    Returns:
      What stays; the descriptions. Memory: about 70 bytes a document.
    """
    digest_Dx2 = np.concatenate([document_digests(kept) for kept in (sides.valid, sides.train)])
    first_D = first_equal(digest_Dx2)
    is_first_D = first_D == np.arange(len(first_D))
    described = [
        sides.place(number) | {"copy_of": sides.place(int(first_D[number]))}
        for number in np.flatnonzero(~is_first_D)[:examples].tolist()
    ]
    return sides.take(is_first_D), described


def document_digests(kept: Kept) -> np.ndarray:
    """uint64[D, 2]: a digest of each run's tokens."""
    digests = bytearray(DIGEST * len(kept.start_D))
    for piece in kept.pieces(doing="digests of documents"):
        raw, end = piece.tokens.tobytes(), 0
        for run, length in enumerate(piece.lengths.tolist(), piece.first):
            begin, end = end, end + 4 * length
            if run > piece.first or not piece.goes_on:
                hasher = hashlib.blake2b(digest_size=DIGEST)
            hasher.update(raw[begin:end])
            digests[DIGEST * run : DIGEST * (run + 1)] = hasher.digest()
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def first_equal(digest_Kx2: np.ndarray) -> np.ndarray:
    """int64[K]: the first row that equals each row."""
    order = np.lexsort(digest_Kx2.T)  # is stable: the first of equal ones stays the first
    ranked = digest_Kx2[order]
    is_new = np.append(True, np.any(ranked[1:] != ranked[:-1], axis=1))
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
    return first


def without_blocks(sides: Sides, seq_len: int, examples: int = 0) -> tuple[Sides, list[dict]]:
    """Cuts out each block whose `seq_len` tokens are those of a block before; held-out ones come before the others.

    Blocks are those that `data.blocks.Blocks` cuts what is kept into, so all other blocks stay what they are: their
    bounds do not move, and tokens after a source's last whole block stay. What remains of a document on both
    sides of a block becomes two documents. The last target of the block before a cut is another one.

    Args:
      examples: So many that were cut out are described: the document in which they begin.

    Returns:
      What stays; the descriptions. Memory: about 80 bytes a block, and as many a document.
    """
    found = [*block_digests(sides.valid, seq_len, 0)]
    found += block_digests(sides.train, seq_len, int(sides.valid.length_D.sum()))
    start_N, digest_Nx2 = (np.concatenate(arrays) for arrays in zip(*found))
    first_N = first_equal(digest_Nx2)
    (copies,) = np.nonzero(first_N != np.arange(len(first_N)))

    def place(block: int) -> dict:
        return sides.place(int(np.searchsorted(sides.at_D, start_N[block], side="right")) - 1)

    described = [place(copy) | {"copy_of": place(first_N[copy])} for copy in copies[:examples].tolist()]
    return sides.cut(start_N[copies], start_N[copies] + seq_len), described


def block_digests(kept: Kept, seq_len: int, first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of some blocks at a time: int64[N], where each starts, tokens numbered from `first` on; uint64[N, 2], digests."""
    source, rest = -1, np.empty(0, np.int32)
    for piece in kept.pieces(doing="digests of blocks"):
        if piece.source != source:
            source, rest = piece.source, rest[:0]
        tokens, start = np.concatenate([rest, piece.tokens]), first + piece.at - len(rest)
        count = (len(tokens) - 1) // seq_len  # a block has one token more, its last target
        raw, size = tokens.tobytes(), 4 * seq_len
        digests = b"".join(
            hashlib.blake2b(raw[i * size : (i + 1) * size], digest_size=DIGEST).digest() for i in range(count)
        )
        yield start + seq_len * np.arange(count), np.frombuffer(digests, np.uint64).reshape(-1, 2)
        rest = tokens[count * seq_len :]
