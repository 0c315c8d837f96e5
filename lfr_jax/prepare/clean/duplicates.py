"""Exact copies of documents and of blocks. The first one is kept."""

import hashlib
from collections.abc import Iterator

import numpy as np

from lfr_jax.prepare.clean.kept import Kept, Sides

DIGEST = 16  # bytes; among 10^9 digests, two are equal by chance with a probability of 10^-21


def without_documents(sides: Sides, examples: int = 0) -> tuple[Sides, list[dict]]:
    """Leaves out each document that has the same tokens as an earlier one. Held-out documents come first.

    Memory is about 70 bytes a document.

    Args:
      examples: so many of those left out are described.

    Returns:
      What is kept; the descriptions.
    """
    digest_Dx2 = np.concatenate([document_digests(kept) for kept in (sides.valid, sides.train)])
    first_D = first_equal(digest_Dx2)
    is_first_D = first_D == np.arange(len(first_D))
    described = [
        sides.describe(number) | {"copy_of": sides.describe(int(first_D[number]))}
        for number in np.flatnonzero(~is_first_D)[:examples].tolist()
    ]
    return sides.take(is_first_D), described


def document_digests(kept: Kept) -> np.ndarray:
    """uint64[D, 2]: a digest of each span's tokens."""
    digests = bytearray(DIGEST * len(kept.start_D))
    for chunk in kept.chunks(doing="digests of documents"):
        raw, end = chunk.tokens.tobytes(), 0
        for span, length in enumerate(chunk.lengths.tolist(), chunk.first):
            begin, end = end, end + 4 * length
            if span > chunk.first or not chunk.goes_on:
                hasher = hashlib.blake2b(digest_size=DIGEST)
            hasher.update(raw[begin:end])
            digests[DIGEST * span : DIGEST * (span + 1)] = hasher.digest()
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def first_equal(digest_Kx2: np.ndarray) -> np.ndarray:
    """int64[K]: for each row, the first row that is equal."""
    order = np.lexsort(digest_Kx2.T)  # stable: the first of equal rows stays the first
    ranked = digest_Kx2[order]
    is_new = np.append(True, np.any(ranked[1:] != ranked[:-1], axis=1))
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
    return first


def without_blocks(sides: Sides, seq_len: int, examples: int = 0) -> tuple[Sides, list[dict]]:
    """Cuts out each block of `seq_len` tokens that has the same tokens as an earlier one. Held-out blocks come first.

    The blocks are those of `data.blocks.Blocks`. So the other blocks stay as they are: their bounds do not move, and
    what is left at the end of a source stays. A document with a block cut out of its middle becomes two. Only the last
    target of the block before a cut changes.

    Memory is about 80 bytes a block, and about 80 bytes a document.

    Args:
      examples: so many of those cut out are described, by the document in which they begin.

    Returns:
      What is kept; the descriptions.
    """
    found = [*block_digests(sides.valid, seq_len, 0)]
    found += block_digests(sides.train, seq_len, int(sides.valid.length_D.sum()))
    start_N, digest_Nx2 = (np.concatenate(arrays) for arrays in zip(*found))
    first_N = first_equal(digest_Nx2)
    (copies,) = np.nonzero(first_N != np.arange(len(first_N)))

    def describe(block: int) -> dict:
        return sides.describe(int(np.searchsorted(sides.at_D, start_N[block], side="right")) - 1)

    described = [describe(copy) | {"copy_of": describe(first_N[copy])} for copy in copies[:examples].tolist()]
    return sides.without_ranges(start_N[copies], start_N[copies] + seq_len), described


def block_digests(kept: Kept, seq_len: int, first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For some blocks at a time: int64[N], where each starts, counted from `first` on; uint64[N, 2], its digest."""
    source, rest = -1, np.empty(0, np.int32)
    for chunk in kept.chunks(doing="digests of blocks"):
        if chunk.source != source:
            source, rest = chunk.source, rest[:0]
        tokens, start = np.concatenate([rest, chunk.tokens]), first + chunk.at - len(rest)
        count = (len(tokens) - 1) // seq_len  # a block has one more token, its last target
        raw, size = tokens.tobytes(), 4 * seq_len
        digests = b"".join(
            hashlib.blake2b(raw[i * size : (i + 1) * size], digest_size=DIGEST).digest() for i in range(count)
        )
        yield start + seq_len * np.arange(count), np.frombuffer(digests, np.uint64).reshape(-1, 2)
        rest = tokens[count * seq_len :]
