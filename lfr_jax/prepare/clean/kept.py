"""What stays of a store: runs of its tokens, to be read piece by piece and cut down further. Nothing is written."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tqdm

from lfr_jax.data.store import Store

AT_ONCE = 1 << 18  # tokens read at once


class TokenChunk(NamedTuple):
    """Tokens that were read together: of whole runs that follow one another, or a part of a long one."""

    tokens: np.ndarray  # int32
    lengths: np.ndarray  # int64: so many of each run
    first: int  # the first run's number
    at: int  # the first token's position among all that are kept
    source: int  # in which all of them lie
    goes_on: bool  # the first run began in the piece before


class Kept(NamedTuple):
    """D runs of a store's tokens, in order. Each lies within one document, and is a document of what is written."""

    store: Store
    start_D: np.ndarray  # int64: the first token of each
    stop_D: np.ndarray  # int64: the token after its last

    @property
    def length_D(self) -> np.ndarray:
        return self.stop_D - self.start_D

    @property
    def at_D(self) -> np.ndarray:
        """int64[D]: the position of each run's first token among all that are kept."""
        return np.cumsum(self.length_D) - self.length_D

    @property
    def source_D(self) -> np.ndarray:
        """int64[D]: index into the store's sources."""
        return np.searchsorted([source.first for source in self.store.sources], self.start_D, side="right") - 1

    @property
    def document_D(self) -> np.ndarray:
        """int64[D]: the document of the store that each run lies in."""
        return np.searchsorted(self.store.doc_starts, self.start_D, side="right") - 1

    def take(self, chosen: np.ndarray | slice) -> "Kept":
        """Some of the runs."""
        return self._replace(start_D=self.start_D[chosen], stop_D=self.stop_D[chosen])

    def without_ranges(self, start_R: np.ndarray, stop_R: np.ndarray) -> "Kept":
        """What stays without R ranges of the kept tokens, which rise and do not overlap.

        The ranges are positions among all tokens that are kept, so one may reach over several runs. What
        remains of a run on both sides of a range becomes two.
        """
        at_D, total = self.at_D, int(self.length_D.sum())
        begin_P = np.unique(np.concatenate([at_D, start_R, stop_R]).astype(np.int64))
        begin_P = begin_P[begin_P < total]
        end_P = np.append(begin_P[1:], total)
        range_P = np.searchsorted(start_R, begin_P, side="right") - 1
        stays_P = (range_P < 0) | (begin_P >= np.append(stop_R, 0)[range_P])
        run_P = np.searchsorted(at_D, begin_P, side="right") - 1
        moved_P = self.start_D[run_P] - at_D[run_P]
        return Kept(self.store, (begin_P + moved_P)[stays_P], (end_P + moved_P)[stays_P])

    def chunks(self, overlap: int = 0, doing: str = "") -> Iterator[TokenChunk]:
        """Reads all runs in order, in memory of a few MB whatever their length.

        Args:
          overlap: Each part of a long run begins with so many last tokens of the part before.
          doing: What a progress bar says; without it there is none.
        """
        length_D, at_D, source_D = self.length_D, self.at_D, self.source_D
        with tqdm.tqdm(
            total=int(length_D.sum()), desc=doing, unit=" tokens", unit_scale=True, disable=None if doing else True
        ) as bar:
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
                    yield from self.chunks_of_long_run(first, overlap, int(at_D[first]), source)
                bar.update(int(length_D[first:stop].sum()))
                first = stop

    def read(self, first: int, stop: int) -> np.ndarray:
        """int32: the tokens of runs of one source, read at once with what was between them."""
        begin, end = self.start_D[first:stop] - self.start_D[first], self.stop_D[first:stop] - self.start_D[first]
        (tokens,) = self.store.read(self.start_D[first : first + 1], int(end[-1]))
        if np.array_equal(begin[1:], end[:-1]):
            return tokens
        change = np.zeros(len(tokens) + 1, np.int8)
        change[begin] += 1
        change[end] -= 1
        return tokens[np.cumsum(change[:-1], dtype=np.int8).astype(bool)]

    def chunks_of_long_run(self, run: int, overlap: int, at: int, source: int) -> Iterator[TokenChunk]:
        """A long run, part by part."""
        start, stop = int(self.start_D[run]), int(self.stop_D[run])
        for begin in range(start, stop - overlap, AT_ONCE - overlap):
            (tokens,) = self.store.read(np.array([begin]), min(AT_ONCE, stop - begin))
            yield TokenChunk(tokens, np.array([len(tokens)]), run, at + begin - start, source, begin > start)


def all_documents(store: Store) -> Kept:
    """All documents of a store."""
    return Kept(store, store.doc_starts, np.append(store.doc_starts[1:], store.card.tokens))


class Sides(NamedTuple):
    """A prepared folder's two stores.

    Runs, and tokens, are numbered from those of `valid` on to those of `train`: so what is held out is the first
    of what is equal, and stays.
    """

    train: Kept
    valid: Kept

    @property
    def at_D(self) -> np.ndarray:
        """int64[D]: the position of each run's first token."""
        return np.concatenate([self.valid.at_D, self.train.at_D + self.valid.length_D.sum()])

    def take(self, chosen_D: np.ndarray) -> "Sides":
        """The runs for which bool[D] holds."""
        held_out = len(self.valid.start_D)
        return Sides(self.train.take(chosen_D[held_out:]), self.valid.take(chosen_D[:held_out]))

    def without_ranges(self, start_R: np.ndarray, stop_R: np.ndarray) -> "Sides":
        """As `Kept.without_ranges`, of ranges none of which reaches over both."""
        held_out = int(self.valid.length_D.sum())
        cuts = np.searchsorted(start_R, held_out)
        train = self.train.without_ranges(start_R[cuts:] - held_out, stop_R[cuts:] - held_out)
        return Sides(train, self.valid.without_ranges(start_R[:cuts], stop_R[:cuts]))

    def describe(self, number: int) -> dict[str, str | int]:
        """Where a run lies."""
        held_out = len(self.valid.start_D)
        if number < held_out:
            side, run = "valid", self.valid.take([number])
        else:
            side, run = "train", self.train.take([number - held_out])
        source = run.store.sources[int(run.source_D[0])]
        return {"side": side, "domain": source.domain, "source": source.name, "document": int(run.document_D[0])}
