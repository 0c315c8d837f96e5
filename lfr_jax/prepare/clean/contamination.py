"""N-grams of held-out documents that are also in the training text."""

from typing import NamedTuple

import numpy as np

from lfr_jax.prepare.clean import ngrams
from lfr_jax.prepare.clean.kept import Kept, Sides

WINDOW = 50  # tokens cut away on both sides of a shared n-gram: about 200 characters
MAX_PARTS = 10  # a document that would fall into more parts is left out


class Grams(NamedTuple):
    """The n-grams of the held-out documents: P in all, G different ones."""

    n: int
    hash_G: np.ndarray  # uint64, sorted
    gram_P: np.ndarray  # int32 or int64: index into hash_G
    span_P: np.ndarray  # int32 or int64: the held-out document
    near: np.ndarray  # bool[2^k]: whether any hash begins with these k bits; rules out most others at once

    def find(self, hash_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the hashes are in `hash_G`, and their indices there."""
        (likely,) = np.nonzero(self.near[hash_P >> np.uint64(65 - len(self.near).bit_length())])
        gram = np.minimum(np.searchsorted(self.hash_G, hash_P[likely]), len(self.hash_G) - 1)
        same = self.hash_G[gram] == hash_P[likely]
        return likely[same], gram[same]


class Overlap(NamedTuple):
    """What the held-out documents share with the training text."""

    grams: Grams
    in_train_G: np.ndarray  # bool: the n-gram is in train, and is not too common there
    first_G: np.ndarray  # int64: the first training document with the n-gram; −1: none
    share_D: np.ndarray  # the share of a held-out document's n-grams that is in train; 0 if it has none


def measure_overlap(sides: Sides, n: int = 13, common: int = 10) -> Overlap:
    """Measures which share of each held-out document's n-grams is in the training text.

    The authors of GPT-3 compared 13-grams of words. Ours are of tokens, which are shorter than words. As they did, we
    ignore n-grams in more than ten training documents: phrases, licences and forms do not show that one text
    came from the other.

    Memory is about 75 bytes for each held-out token. It does not grow with the training text.

    Args:
      n: tokens in an n-gram. A held-out document with fewer tokens has none.
      common: n-grams in more training documents than this are ignored.

    References:
      Brown et al., arXiv 2005.14165, "Language models are few-shot learners", appendix C.
    """
    grams = held_out_grams(sides.valid, n)
    documents_G, first_G = np.zeros(len(grams.hash_G), np.int64), np.full(len(grams.hash_G), -1)
    last_G = np.full(len(grams.hash_G), -1)
    for chunk in sides.train.chunks(overlap=n - 1, doing="n-grams of train"):
        begin_P, hash_P = ngrams.of_spans(chunk.tokens, chunk.lengths, n)
        found, gram = grams.find(hash_P)
        span = chunk.first + np.searchsorted(np.cumsum(chunk.lengths), begin_P[found], side="right")
        span, gram = np.divmod(np.unique(span * len(grams.hash_G) + gram), len(grams.hash_G))  # once a document, sorted
        new = last_G[gram] != span  # unless it was counted in an earlier part of the document
        np.add.at(documents_G, gram[new], 1)
        last_G[gram] = span
        unseen, at = np.unique(gram[first_G[gram] < 0], return_index=True)
        first_G[unseen] = span[first_G[gram] < 0][at]
    in_train_G = (documents_G > 0) & (documents_G <= common)
    total_D = np.bincount(grams.span_P, minlength=len(sides.valid.start_D))
    found_D = np.bincount(grams.span_P, in_train_G[grams.gram_P], minlength=len(sides.valid.start_D))
    return Overlap(grams, in_train_G, first_G, found_D / np.maximum(total_D, 1))


def held_out_grams(valid: Kept, n: int) -> Grams:
    """All n-grams of the held-out documents."""
    hashes, spans = [], []
    for chunk in valid.chunks(overlap=n - 1, doing="n-grams of valid"):
        begin_P, hash_P = ngrams.of_spans(chunk.tokens, chunk.lengths, n)
        hashes.append(hash_P)
        spans.append(chunk.first + np.searchsorted(np.cumsum(chunk.lengths), begin_P, side="right"))
    hash_G, gram_P = np.unique(np.concatenate(hashes), return_inverse=True)
    bits = max(10, (8 * len(hash_G)).bit_length())
    near = np.zeros(1 << bits, bool)
    near[hash_G >> np.uint64(64 - bits)] = True
    return Grams(n, hash_G, gram_P, np.concatenate(spans), near)


def without_held_out(sides: Sides, overlap: Overlap, least: float) -> Sides:
    """Leaves out held-out documents if at least the share `least` of their n-grams is in the training text."""
    return sides._replace(valid=sides.valid.take((overlap.share_D < least) | (overlap.share_D == 0)))


def without_shared(sides: Sides, overlap: Overlap, least: float) -> Sides:
    """Cuts n-grams of contaminated held-out documents out of the training text.

    A held-out document is contaminated if at least the share `least` of its n-grams is in the training text. As for
    GPT-3, each n-gram is cut out with a window on both sides: here 50 tokens, there 200 characters. The parts of a
    document become documents of their own. Parts shorter than a window are left out, and so is a document that would
    fall into more than ten parts. N-grams that are common in train are not cut out.
    """
    grams, n = overlap.grams, overlap.grams.n
    is_contaminated_D = (overlap.share_D >= least) & (overlap.share_D > 0)
    to_cut_G = np.zeros(len(grams.hash_G), bool)
    to_cut_G[grams.gram_P[is_contaminated_D[grams.span_P]]] = True
    to_cut_G &= overlap.in_train_G
    starts, stops = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    train = sides.train
    at_D = np.append(train.at_D, train.length_D.sum())
    for chunk in train.chunks(overlap=n - 1, doing="cutting"):
        begin_P, hash_P = ngrams.of_spans(chunk.tokens, chunk.lengths, n)
        found, gram = grams.find(hash_P)
        at = chunk.at + begin_P[found[to_cut_G[gram]]]
        span = np.searchsorted(at_D, at, side="right") - 1
        start, stop = merged(np.maximum(at - WINDOW, at_D[span]), np.minimum(at + n + WINDOW, at_D[span + 1]))
        starts.append(start)
        stops.append(stop)
    left = train.without_ranges(*merged(np.concatenate(starts), np.concatenate(stops)))
    span_L = np.searchsorted(train.start_D, left.start_D, side="right") - 1
    was_cut_L = left.length_D < train.length_D[span_L]
    parts_D = np.bincount(span_L, minlength=len(train.start_D))
    return sides._replace(train=left.take(~was_cut_L | ((left.length_D >= WINDOW) & (parts_D[span_L] <= MAX_PARTS))))


def merged(start_R: np.ndarray, stop_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joins ranges that touch or overlap. Their ends are sorted."""
    is_first = np.append(True, start_R[1:] > stop_R[:-1])[: len(start_R)]
    is_last = np.append(is_first[1:], True)[: len(start_R)]
    return start_R[is_first], stop_R[is_last]
