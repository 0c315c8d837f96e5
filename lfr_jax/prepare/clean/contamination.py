"""N-grams of held-out documents that are in the training text too."""

from typing import NamedTuple

import numpy as np

from lfr_jax.prepare.clean import ngrams
from lfr_jax.prepare.clean.kept import Kept, Sides

WINDOW = 50  # tokens cut away on both sides of a shared n-gram: about 200 characters
PIECES = 10  # a document that would fall into more pieces goes as a whole


class Grams(NamedTuple):
    """The G different n-grams of the held-out documents, P in all."""

    n: int
    hash_G: np.ndarray  # uint64, rising
    gram_P: np.ndarray  # int32 or int64: index into hash_G
    run_P: np.ndarray  # int32 or int64: the held-out document
    near: np.ndarray  # bool[2^k]: whether a hash begins with these k bits, so that most others are told at once

    def find(self, hash_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the hashes are among those held out, and their indices there."""
        (likely,) = np.nonzero(self.near[hash_P >> np.uint64(65 - len(self.near).bit_length())])
        gram = np.minimum(np.searchsorted(self.hash_G, hash_P[likely]), len(self.hash_G) - 1)
        same = self.hash_G[gram] == hash_P[likely]
        return likely[same], gram[same]


class Overlap(NamedTuple):
    """What held-out documents share with the training text."""

    grams: Grams
    in_train_G: np.ndarray  # bool: an n-gram is there, and not so common there that it tells nothing
    first_G: np.ndarray  # int64: the first training document that it is in, or −1
    share_D: np.ndarray  # of a held-out document's n-grams, the share that is in train; 0 if it has none


def measure_overlap(sides: Sides, n: int = 13, common: int = 10) -> Overlap:
    """How much of each held-out document is in the training text, by n-grams of tokens.

    GPT-3's authors compared 13-grams of words; a word is more than one token, so these are shorter. As
    they did, we pass over n-grams that are in more than ten training documents: phrases, licences and forms, which do
    not tell that one text came from the other.

    Args:
      n: Tokens in an n-gram. A held-out document of fewer has none.
      common: N-grams in more training documents than this are passed over.

    Returns:
      The shares. Memory: about 75 bytes for each held-out token, and nothing that grows with the training text.

    References:
      Brown et al., arXiv 2005.14165, "Language models are few-shot learners", appendix C.
    """
    grams = held_out_grams(sides.valid, n)
    documents_G, first_G = np.zeros(len(grams.hash_G), np.int64), np.full(len(grams.hash_G), -1)
    last_G = np.full(len(grams.hash_G), -1)
    for chunk in sides.train.chunks(overlap=n - 1, doing="n-grams of train"):
        begin_P, hash_P = ngrams.of_runs(chunk.tokens, chunk.lengths, n)
        found, gram = grams.find(hash_P)
        run = chunk.first + np.searchsorted(np.cumsum(chunk.lengths), begin_P[found], side="right")
        run, gram = np.divmod(np.unique(run * len(grams.hash_G) + gram), len(grams.hash_G))  # once a document, rising
        new = last_G[gram] != run  # or the document's part before has counted it
        np.add.at(documents_G, gram[new], 1)
        last_G[gram] = run
        unseen, at = np.unique(gram[first_G[gram] < 0], return_index=True)
        first_G[unseen] = run[first_G[gram] < 0][at]
    in_train_G = (documents_G > 0) & (documents_G <= common)
    total_D = np.bincount(grams.run_P, minlength=len(sides.valid.start_D))
    found_D = np.bincount(grams.run_P, in_train_G[grams.gram_P], minlength=len(sides.valid.start_D))
    return Overlap(grams, in_train_G, first_G, found_D / np.maximum(total_D, 1))


def held_out_grams(valid: Kept, n: int) -> Grams:
    hashes, runs = [], []
    for chunk in valid.chunks(overlap=n - 1, doing="n-grams of valid"):
        begin_P, hash_P = ngrams.of_runs(chunk.tokens, chunk.lengths, n)
        hashes.append(hash_P)
        runs.append(chunk.first + np.searchsorted(np.cumsum(chunk.lengths), begin_P, side="right"))
    hash_G, gram_P = np.unique(np.concatenate(hashes), return_inverse=True)
    bits = max(10, (8 * len(hash_G)).bit_length())
    near = np.zeros(1 << bits, bool)
    near[hash_G >> np.uint64(64 - bits)] = True
    return Grams(n, hash_G, gram_P, np.concatenate(runs), near)


def without_held_out(sides: Sides, overlap: Overlap, least: float) -> Sides:
    """Leaves out the held-out documents of which the share `least` or more is in the training text."""
    return sides._replace(valid=sides.valid.take((overlap.share_D < least) | (overlap.share_D == 0)))


def without_shared(sides: Sides, overlap: Overlap, least: float) -> Sides:
    """Cuts out of the training text what it shares with held-out documents of which the share `least` or more is in it.

    As for GPT-3: each such n-gram goes with a window on both sides; here 50 tokens, there 200 characters.
    What remains of a document becomes documents, those shorter than a window go too, and a document that would fall
    into more than ten goes as a whole. N-grams that are common in train stay.
    """
    grams, n = overlap.grams, overlap.grams.n
    is_contaminated_D = (overlap.share_D >= least) & (overlap.share_D > 0)
    to_cut_G = np.zeros(len(grams.hash_G), bool)
    to_cut_G[grams.gram_P[is_contaminated_D[grams.run_P]]] = True
    to_cut_G &= overlap.in_train_G
    starts, stops = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    train = sides.train
    at_D = np.append(train.at_D, train.length_D.sum())
    for chunk in train.chunks(overlap=n - 1, doing="cutting"):
        begin_P, hash_P = ngrams.of_runs(chunk.tokens, chunk.lengths, n)
        found, gram = grams.find(hash_P)
        at = chunk.at + begin_P[found[to_cut_G[gram]]]
        run = np.searchsorted(at_D, at, side="right") - 1
        start, stop = merged(np.maximum(at - WINDOW, at_D[run]), np.minimum(at + n + WINDOW, at_D[run + 1]))
        starts.append(start)
        stops.append(stop)
    left = train.without_ranges(*merged(np.concatenate(starts), np.concatenate(stops)))
    run_L = np.searchsorted(train.start_D, left.start_D, side="right") - 1
    was_cut_L = left.length_D < train.length_D[run_L]
    pieces_D = np.bincount(run_L, minlength=len(train.start_D))
    return sides._replace(train=left.take(~was_cut_L | ((left.length_D >= WINDOW) & (pieces_D[run_L] <= PIECES))))


def merged(start_R: np.ndarray, stop_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges whose ends rise, those that touch or overlap made one."""
    is_first = np.append(True, start_R[1:] > stop_R[:-1])[: len(start_R)]
    is_last = np.append(is_first[1:], True)[: len(start_R)]
    return start_R[is_first], stop_R[is_last]
