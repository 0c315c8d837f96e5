"""Fill-in-the-middle: some documents are read with their middle last, so that a model learns to fill gaps.

A document is split at two random positions into prefix, middle and suffix. The parts are put in one of two orders, with
a sentinel before each (Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle",
arXiv 2207.14255, section 3):

    PSM  <PRE> prefix <SUF> suffix <MID> middle
    SPM  <PRE> <SUF> suffix <MID> prefix middle

SPM is PSM with an empty prefix, and a middle that begins with the prefix. So one function makes both.
"""

from typing import NamedTuple

import numpy as np

from lfr_jax.config import DataConfig
from lfr_jax.data.blocks import ranges
from lfr_jax.data.tokenizer import Tokenizer
from lfr_jax.schedule import Purpose, numpy_key, random_numbers_at


class Sentinels(NamedTuple):
    """The ids that mark the parts of a document."""

    prefix: int
    suffix: int
    middle: int


def sentinels(vocab_size: int) -> Sentinels:
    """The three ids behind those of the tokenizer. The model's vocabulary must have room for them."""
    return Sentinels(vocab_size, vocab_size + 1, vocab_size + 2)


class FillInTheMiddle(NamedTuple):
    """Rearranges documents in the rows of a batch: a `pipeline.Transform`.

    The text in a row up to end-of-text, or to the end of the row, counts as one document. So a document that lies in
    two blocks is rearranged in each of them apart (the paper's context level). A row keeps its length: the
    sentinels take the place of the document's last three tokens. End-of-text stays where it is. Documents of three
    tokens or fewer are not changed.
    """

    rate: float  # share of the documents that are rearranged
    spm_rate: float  # share of these that get the order SPM
    sentinels: Sentinels
    eos_id: int
    seed: int
    phase: int

    def __call__(self, tokens_RxT1: np.ndarray, batch: int, row_R: np.ndarray) -> np.ndarray:
        width = tokens_RxT1.shape[1]
        is_text_RxT3 = np.pad((tokens_RxT1 >= 0) & (tokens_RxT1 != self.eos_id), ((0, 0), (1, 1)))
        edges = np.diff(is_text_RxT3.view(np.int8)).ravel()
        of_D, start_D = np.divmod(np.flatnonzero(edges == 1), width + 1)
        text_D = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1) - len(self.sentinels)
        key = numpy_key(Purpose.FILL_IN, self.seed, self.phase, batch)
        change_D, order_D, *cuts_D = random_numbers_at(key, row_R[of_D] * width + start_D, 4)
        one_D, other_D = (np.int64(cut_D * (text_D + 1)) for cut_D in cuts_D)
        head_D = np.where(order_D < self.spm_rate, 0, np.minimum(one_D, other_D))
        chosen_D = (change_D < self.rate) & (text_D > 0)
        texts = of_D * width + start_D, text_D, head_D, np.maximum(one_D, other_D)
        return arranged(tokens_RxT1, *(array_D[chosen_D] for array_D in texts), self.sentinels)


def transform(data: DataConfig, tokenizer: Tokenizer, seed: int, phase: int) -> FillInTheMiddle | None:
    """The transform for a phase of a run; None if `data.fim_rate` is 0."""
    if not data.fim_rate:
        return None
    ids = sentinels(tokenizer.vocab_size)
    return FillInTheMiddle(data.fim_rate, data.fim_spm_rate, ids, tokenizer.eos_id, seed, phase)


def arranged(tokens_RxT1, start_D, text_D, head_D, tail_D, sentinels: Sentinels) -> np.ndarray:
    """The rows with D documents rearranged: <PRE> text[:head] <SUF> text[tail:] <MID> text[head:tail].

    Args:
      tokens_RxT1: int32[R, T+1], the rows.
      start_D: position of each document in the rows, which are counted through from the first to the last.
      text_D: its length, without the three tokens behind it, which are lost to the sentinels.
      head_D, tail_D: where the middle begins and ends; 0 <= head <= tail <= text.
    """
    size, one_D = tokens_RxT1.size, np.ones_like(start_D)
    found = np.append(tokens_RxT1, np.array(sentinels, tokens_RxT1.dtype))
    gap_D1 = np.append(0, start_D + text_D + len(sentinels))  # what lies between the documents stays
    gap_D = gap_D1[:-1]
    starts = [gap_D, size * one_D, start_D, (size + 1) * one_D, start_D + tail_D, (size + 2) * one_D, start_D + head_D]
    lengths = [start_D - gap_D, one_D, head_D, one_D, text_D - tail_D, one_D, tail_D - head_D]
    last = gap_D1[-1]
    order = ranges(np.append(np.stack(starts, 1), last), np.append(np.stack(lengths, 1), size - last))
    return found[order].reshape(tokens_RxT1.shape)
