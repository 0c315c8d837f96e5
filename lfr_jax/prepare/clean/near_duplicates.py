"""Documents that are nearly the same: MinHash finds the candidates, their n-grams decide."""

import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lfr_jax import terminal
from lfr_jax.prepare.clean import ngrams
from lfr_jax.prepare.clean.kept import Kept, Sides
from lfr_jax.prepare.workers import portable, process_pool
from lfr_jax.schedule import mix64

PERMUTATIONS = 128  # numbers in a signature, of 4 bytes each
WEIGHTS = 0.02, 0.98  # costs of a false candidate, which is checked again, and of a missed one, which is lost
BATCH = 512  # n-grams that the library takes at once, so that its temporary arrays fit in a core's cache
TASK = 1 << 20  # tokens that a worker takes at once
MOST = 1 << 20  # at most so many n-grams of a document are compared


def without_near_duplicates(
    sides: Sides, threshold: float, n: int = 5, workers: int = 1, examples: int = 0
) -> tuple[Sides, list[dict]]:
    r"""Keeps one document of each group of near-duplicates: the first one.

    Let J be the Jaccard index of two documents: the number of n-grams of tokens in both, divided by the number in
    either. Two documents are near-duplicates if J is at least `threshold`. A group is connected by pairs of
    near-duplicates, so its first and last document may differ by more. Held-out documents come first, and are left
    out only because of another held-out one.

    A document's signature holds the smallest hash of its n-grams under each of 128 permutations. Two signatures agree
    at a share J of their positions, on average. The positions are split into b bands of r. Two documents whose
    signatures agree at all positions of a band, which has the probability

    $$ 1 - (1 - J^r)^b $$

    are candidates. For a threshold of 0.8, b is 17 and r is 7: the probability is 0.98 at J = 0.8, and 1.00 at
    J = 0.9. If the signatures of candidates are so alike that J may reach `threshold`, their n-grams are compared.
    Of documents with more than a million tokens, about a million n-grams are compared, chosen by their hashes.

    Memory is 512 bytes a document for its signature, and about 100 more.

    Args:
      n: tokens in an n-gram. Documents with fewer tokens have no near-duplicates.
      workers: processes that make signatures.
      examples: so many of the documents left out are described.

    Returns:
      What is kept; the descriptions.

    References:
      Broder 1997, "On the resemblance and containment of documents"; Lee et al., arXiv 2107.06499, "Deduplicating
      training data makes language models better".
    """
    both, held_out = (sides.valid, sides.train), len(sides.valid.start_D)
    signature_DxP = signatures(both, n, workers)
    documents = NgramSets(both, n)
    first_D = group_near_duplicates(signature_DxP, documents, threshold)
    first_D[:held_out] = group_near_duplicates(signature_DxP[:held_out], documents, threshold)
    stays_D = first_D == np.arange(len(first_D))
    described = [
        sides.describe(number)
        | {"first_of_group": sides.describe(first), "jaccard": round(documents.jaccard(first, number), 4)}
        for number, first in [(i, int(first_D[i])) for i in np.flatnonzero(~stays_D)[:examples].tolist()]
    ]
    return sides.take(stays_D), described


def signatures(both: tuple[Kept, Kept], n: int, workers: int) -> np.ndarray:
    """uint32[D, PERMUTATIONS]: each span's signature, made by worker processes."""
    tasks = [task for kept in both for task in portions(kept)]
    signature_DxP = np.empty((sum(len(kept.start_D) for kept in both), PERMUTATIONS), np.uint32)
    first, total = 0, sum(int(kept.length_D.sum()) for kept in both)
    if len(tasks) <= len(both):  # too little work for a second process
        workers = 1
    with terminal.bar(total=total, desc="signatures", unit=" tokens", unit_scale=True) as bar:
        for task, made in zip(tasks, in_processes(functools.partial(sketch, n=n), tasks, workers)):
            signature_DxP[first : first + len(made)] = made
            first += len(made)
            bar.update(int(task.length_D.sum()))
    return signature_DxP


def portions(kept: Kept) -> list[Kept]:
    """The spans, in parts of about TASK tokens."""
    begin = np.unique(np.searchsorted(kept.at_D, np.arange(0, kept.length_D.sum(), TASK))).tolist()
    return [kept.take(slice(first, stop)) for first, stop in zip(begin, [*begin[1:], None])]


def in_processes(function: Callable, tasks: Iterable, workers: int) -> Iterator:
    """The result of the function for each task, in their order."""
    if workers == 1:
        yield from map(function, tasks)
        return
    with process_pool(workers) as pool:
        yield from pool.map(functools.partial(portable, function), tasks)


def sketch(kept: Kept, n: int) -> np.ndarray:
    """uint32[D, PERMUTATIONS]: each span's signature; all bits are ones if it has no n-gram."""
    from datasketch import MinHash  # not at the top: it takes half a second, also for `lfr data info`

    minhash = MinHash(PERMUTATIONS, hashfunc=int, scheme="affine32")
    signature_DxP = np.empty((len(kept.start_D), PERMUTATIONS), np.uint32)
    for chunk in kept.chunks(overlap=n - 1):
        hash_T = (ngrams.hashes(chunk.tokens, n) >> np.uint64(32)).tolist()
        stop_D = np.cumsum(chunk.lengths)
        for span, (begin, stop) in enumerate(zip((stop_D - chunk.lengths).tolist(), stop_D.tolist()), chunk.first):
            if span > chunk.first or not chunk.goes_on:
                minhash.clear()
            for at in range(begin, stop - n + 1, BATCH):
                minhash.update_batch(hash_T[at : min(at + BATCH, stop - n + 1)])
            signature_DxP[span] = minhash.digest()
    return signature_DxP


class NgramSets:
    """The sets of n-grams of spans, to compare spans by number. The sets used last are kept, at most 8 MB each."""

    def __init__(self, both: tuple[Kept, Kept], n: int):
        self.both, self.n = both, n
        self.length_D = np.concatenate([kept.length_D for kept in both])
        self.set = functools.lru_cache(16)(self._set)
        self.jaccard = functools.lru_cache(1 << 16)(self._jaccard)  # candidates of several bands are compared once

    def _jaccard(self, one: int, other: int) -> float:
        longest = int(max(self.length_D[one], self.length_D[other]))
        limit = (1 << 64) * min(MOST, longest) // longest
        grams = self.set(one, limit), self.set(other, limit)
        shared = len(np.intersect1d(*grams, assume_unique=True))
        return shared / max(1, sum(map(len, grams)) - shared)

    def _set(self, number: int, limit: int) -> np.ndarray:
        """uint64, sorted: the hashes of a span's n-grams that are below `limit`."""
        first = len(self.both[0].start_D)
        span = self.both[0].take([number]) if number < first else self.both[1].take([number - first])
        found = (ngrams.hashes(chunk.tokens, self.n) for chunk in span.chunks(overlap=self.n - 1))
        return np.unique(np.concatenate([hash_P[hash_P <= np.uint64(limit - 1)] for hash_P in found]))


def group_near_duplicates(signature_DxP: np.ndarray, documents: NgramSets, threshold: float) -> np.ndarray:
    """int64[D]: for each document, the first one of its group."""
    from datasketch import MinHashLSH

    index = MinHashLSH(
        threshold, PERMUTATIONS, WEIGHTS
    )  # only to choose b and r: as an index it would take 4 kB a document
    least = threshold - 3 * (threshold * (1 - threshold) / PERMUTATIONS) ** 0.5  # three standard deviations
    group_D = np.arange(len(signature_DxP))
    has_grams_D = documents.length_D[: len(group_D)] >= documents.n
    for members in buckets(signature_DxP, index.b, index.r, has_grams_D):
        root = np.array([root_of(group_D, member) for member in members.tolist()])
        while len(root) and np.any(root != root[0]):
            alike = np.mean(signature_DxP[members] == signature_DxP[members[0]], axis=1)
            for i in np.flatnonzero(alike >= least).tolist():
                if root[i] != root[0] and documents.jaccard(int(members[0]), int(members[i])) >= threshold:
                    low, high = sorted((root[0], root[i]))
                    group_D[high] = low
                    root[root == high] = low
            members, root = members[1:], root[1:]
    while np.any(group_D != group_D[group_D]):
        group_D = group_D[group_D]
    return group_D


def buckets(signature_DxP: np.ndarray, bands: int, rows: int, has_grams_D: np.ndarray) -> Iterator[np.ndarray]:
    """Yields documents whose signatures agree in all rows of a band: sorted, two or more each time."""
    for band in range(bands):
        columns = signature_DxP[:, band * rows : (band + 1) * rows].T
        key_D = ngrams.folded(map(mix64, columns))
        order = np.argsort(key_D, kind="stable")
        order = order[has_grams_D[order]]
        (begin,) = np.nonzero(np.append(True, np.diff(key_D[order]) != 0)[: len(order)])
        size = np.diff(np.append(begin, len(order)))
        for at, count in zip(begin[size > 1].tolist(), size[size > 1].tolist()):
            yield order[at : at + count]


def root_of(group_D: np.ndarray, member: int) -> int:
    """The first document of a member's group (union-find, which shortens the way as it goes)."""
    while group_D[member] != member:
        group_D[member] = group_D[group_D[member]]
        member = int(group_D[member])
    return member
