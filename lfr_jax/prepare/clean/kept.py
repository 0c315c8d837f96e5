"""What cleaning keeps of a store: spans of its tokens. Each step takes spans and gives fewer; nothing is written."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lfr_jax import terminal
from lfr_jax.data.store import Store

AT_ONCE = 1 << 18  # tokens read at once


class TokenChunk(NamedTuple):
    """Tokens that were read together: of several complete spans, or a part of a long one."""

    tokens: np.ndarray  # int32
    lengths: np.ndarray  # int64: how many of each span
    first: int  # number of the first span
    at: int  # position of the first token among all that are kept
    source: int  # index of the source that all of them lie in
    goes_on: bool  # the first span began in the chunk before


class Kept(NamedTuple):
    """D spans of a store's tokens, in order. Each lies in one document, and becomes a document of the new store."""

    store: Store
    start_D: np.ndarray  # int64: the first token of each
    stop_D: np.ndarray  # int64: the token behind its last

    @property
    def length_D(self) -> np.ndarray:
        return self.stop_D - self.start_D

    @property
    def at_D(self) -> np.ndarray:
        """int64[D]: the position of each span's first token among all that are kept."""
        return np.cumsum(self.length_D) - self.length_D

    @property
    def source_D(self) -> np.ndarray:
        """int64[D]: each span's index into the store's sources."""
        return np.searchsorted([source.first for source in self.store.sources], self.start_D, side="right") - 1

    @property
    def document_D(self) -> np.ndarray:
        """int64[D]: the document of the store that each span lies in."""
        return np.searchsorted(self.store.doc_starts, self.start_D, side="right") - 1

    def take(self, chosen: np.ndarray | slice) -> "Kept":
        """Some of the spans."""
        return self._replace(start_D=self.start_D[chosen], stop_D=self.stop_D[chosen])

    def without_ranges(self, start_R: np.ndarray, stop_R: np.ndarray) -> "Kept":
        """Cuts out R ranges of the kept tokens. The ranges are sorted and do not overlap.

        They are positions among all tokens that are kept, so a range may cover several spans. A span with a range in
        its middle becomes two.
        """
        at_D, total = self.at_D, int(self.length_D.sum())
        begin_P = np.unique(np.concatenate([at_D, start_R, stop_R]).astype(np.int64))
        begin_P = begin_P[begin_P < total]
        end_P = np.append(begin_P[1:], total)
        range_P = np.searchsorted(start_R, begin_P, side="right") - 1
        stays_P = (range_P < 0) | (begin_P >= np.append(stop_R, 0)[range_P])
        span_P = np.searchsorted(at_D, begin_P, side="right") - 1
        moved_P = self.start_D[span_P] - at_D[span_P]
        return Kept(self.store, (begin_P + moved_P)[stays_P], (end_P + moved_P)[stays_P])

    def chunks(self, overlap: int = 0, doing: str = "") -> Iterator[TokenChunk]:
        """Reads all spans in order. Memory is a few MB, whatever their length.

        Args:
          overlap: each part of a long span begins with so many tokens of the part before.
          doing: the label of a progress bar; "": no bar.
        """
        length_D, at_D, source_D = self.length_D, self.at_D, self.source_D
        total = int(length_D.sum())
        with terminal.bar(hidden=not doing, total=total, desc=doing, unit=" tokens", unit_scale=True) as bar:
            first = 0
            while first < len(length_D):
                start, source = self.start_D[first], int(source_D[first])
                stop = min(
                    np.searchsorted(self.stop_D, start + AT_ONCE, side="right"),
                    np.searchsorted(source_D, source, side="right"),
                )
                if stop > first:
                    yield TokenChunk(
                        self.read(first, stop), length_D[first:stop], first, int(at_D[first]), source, False
                    )
                else:
                    stop = first + 1
                    yield from self.chunks_of_long_span(first, overlap, int(at_D[first]), source)
                bar.update(int(length_D[first:stop].sum()))
                first = stop

    def read(self, first: int, stop: int) -> np.ndarray:
        """int32: the tokens of spans of one source. They are read in one go, with the tokens between them."""
        begin, end = self.start_D[first:stop] - self.start_D[first], self.stop_D[first:stop] - self.start_D[first]
        (tokens,) = self.store.read(self.start_D[first : first + 1], int(end[-1]))
        if np.array_equal(begin[1:], end[:-1]):
            return tokens
        change = np.zeros(len(tokens) + 1, np.int8)
        change[begin] += 1
        change[end] -= 1
        return tokens[np.cumsum(change[:-1], dtype=np.int8).astype(bool)]

    def chunks_of_long_span(self, span: int, overlap: int, at: int, source: int) -> Iterator[TokenChunk]:
        """Reads a long span, part by part."""
        start, stop = int(self.start_D[span]), int(self.stop_D[span])
        for begin in range(start, stop - overlap, AT_ONCE - overlap):
            (tokens,) = self.store.read(np.array([begin]), min(AT_ONCE, stop - begin))
            yield TokenChunk(tokens, np.array([len(tokens)]), span, at + begin - start, source, begin > start)


def all_documents(store: Store) -> Kept:
    """All documents of a store."""
    return Kept(store, store.doc_starts, np.append(store.doc_starts[1:], store.card.tokens))


class Sides(NamedTuple):
    """The two stores of a prepared folder.

    Spans and tokens are numbered through, first those of `valid`, then those of `train`. So of equal documents, the
    held-out one is the first, and is kept.
    """

    train: Kept
    valid: Kept

    @property
    def at_D(self) -> np.ndarray:
        """int64[D]: the position of each span's first token."""
        return np.concatenate([self.valid.at_D, self.train.at_D + self.valid.length_D.sum()])

    def take(self, chosen_D: np.ndarray) -> "Sides":
        """The spans for which bool[D] is true."""
        held_out = len(self.valid.start_D)
        return Sides(self.train.take(chosen_D[held_out:]), self.valid.take(chosen_D[:held_out]))

    def without_ranges(self, start_R: np.ndarray, stop_R: np.ndarray) -> "Sides":
        """As `Kept.without_ranges`. No range covers tokens of both sides."""
        held_out = int(self.valid.length_D.sum())
        cuts = np.searchsorted(start_R, held_out)
        train = self.train.without_ranges(start_R[cuts:] - held_out, stop_R[cuts:] - held_out)
        return Sides(train, self.valid.without_ranges(start_R[:cuts], stop_R[:cuts]))

    def describe(self, number: int) -> dict[str, str | int]:
        """Where a span lies: side, domain, source and document."""
        held_out = len(self.valid.start_D)
        if number < held_out:
            side, span = "valid", self.valid.take([number])
        else:
            side, span = "train", self.train.take([number - held_out])
        source = span.store.sources[int(span.source_D[0])]
        return {"side": side, "domain": source.domain, "source": source.name, "document": int(span.document_D[0])}
