"""From segments to stores: leaves out duplicates, holds out documents, puts each source together."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lfr_jax.prepare import segments
from lfr_jax.prepare.segments import BLANK, BROKEN, HELD_OUT, MORE, Run, Segment
from lfr_jax.prepare.store_writer import StoreWriter


class Count(NamedTuple):
    documents: int
    tokens: int


class Assembled(NamedTuple):
    """What went into the stores, and what did not."""

    train: dict[str, Count]  # by domain
    valid: dict[str, Count]
    documents: int  # read in all
    duplicates: int  # left out because an earlier document had the same text
    blank: int  # left out because they have no text
    without_text: list[tuple[str, str]]  # (domain, source) of the sources that have no usable document
    text_Kx2: np.ndarray  # uint64: digests of the texts in the stores


class LocatedRun(NamedTuple):
    """A run of a segment, and where it lies."""

    segment: Segment
    run: Run
    start: int  # its first byte in the segment's tokens
    rows: np.ndarray  # [ROW]
    position: int  # of the segment's first row, in the order of reading


class SourceDocuments(NamedTuple):
    """The usable documents of a source: neither blank nor with a problem."""

    number_D: np.ndarray  # int64: index among all documents of the source
    tokens_D: np.ndarray  # int64
    hash_D: np.ndarray  # uint64: of the id
    given_D: np.ndarray  # bool: it was given as held-out text


class SourceTexts(NamedTuple):
    """What is needed to find duplicates. Kept apart, so that its memory is free afterwards."""

    text_Dx2: np.ndarray  # uint64: digests
    position_D: np.ndarray  # int64: in the order of reading


def assemble_stores(
    found: Iterable[Segment],
    train: StoreWriter,
    valid: StoreWriter,
    fraction: float | None,
    seen_Kx2: np.ndarray = np.empty((0, 2), np.uint64),
    known: Iterable[str] = (),
) -> Assembled:
    """Writes the documents of all segments into two stores. Memory is about 160 bytes a document.

    - The documents of a source lie together. Sources are sorted by domain and name.
    - Of documents with the same text, the first one read stays. None stays if the text is in `seen_Kx2`.
    - A document is held out if the hash of its id is below `fraction`, whatever the order of reading. Without a
      fraction, those are that were given as held-out text.
    - With a fraction, each domain is in both stores. If by chance one store has no document of it, the document with
      the lowest hash is held out, or the one with the highest hash is trained on. Of a single document, the end is held
      out. This does not hold for the domains `known`, which the stores already have.
    """
    sources = by_source(found)
    texts, new, documents, blank = [SourceTexts(seen_Kx2, np.full(len(seen_Kx2), -1))], {}, {}, 0
    for name, runs in sources.items():
        new[name], text, documents[name], more = usable_documents(runs)
        texts.append(text)
        blank += more
    without_text = [name for name, of_it in new.items() if not len(of_it.hash_D)]
    texts = SourceTexts(*map(np.concatenate, zip(*texts)))
    is_kept = is_first(*texts)
    text_Kx2 = texts.text_Dx2[is_kept]
    del texts
    bounds = np.cumsum([len(seen_Kx2), *(len(of_it.hash_D) for of_it in new.values())])
    for name, kept in zip(new, np.split(is_kept, bounds)[1:]):
        new[name] = SourceDocuments(*(column[kept] for column in new[name]))
    counts: tuple[dict, dict] = {}, {}
    for domain, names in itertools.groupby(sources, key=lambda name: name[0]):
        names = list(names)
        _, tokens_D, hash_D, given_D = map(np.concatenate, zip(*(new[name] for name in names)))
        if not len(hash_D):
            continue
        both = fraction is not None and domain not in known
        held_D = given_D if fraction is None else held_out(hash_D, fraction, both)
        lone = len(hash_D) == 1 and both
        for side in (0, 1):
            counts[side][domain] = Count(int(np.sum(held_D == side)), int(tokens_D[held_D == side].sum()))
        if lone:
            total = int(tokens_D[0])
            tail = int(np.clip(total * fraction, 1, total - 1))
            counts[0][domain], counts[1][domain] = Count(1, total - tail), Count(1, tail)
        ends = np.cumsum([len(new[name].hash_D) for name in names])
        for name, held in zip(names, np.split(held_D, ends[:-1])):
            side_D = np.full(documents[name], -1, np.int8)
            side_D[new[name].number_D] = held
            copy_source(name, sources[name], side_D, total - tail if lone else None, (train, valid))
    duplicates = int(np.sum(~is_kept))
    return Assembled(*counts, sum(documents.values()), duplicates, blank, without_text, text_Kx2)


def by_source(found: Iterable[Segment]) -> dict[tuple[str, str], list[LocatedRun]]:
    """The runs of each (domain, source), sorted by both. The runs of a source are in the order of reading."""
    sources: dict[tuple[str, str], list[LocatedRun]] = {}
    position = 0
    for segment in found:
        first = 0
        for run, start in segments.runs_with_offsets(segment):
            rows = segment.rows[first : first + run.rows]
            sources.setdefault((run.domain, run.source), []).append(
                LocatedRun(segment._replace(rows=None), run, start, rows, position)
            )
            first += run.rows
        position += first
    return dict(sorted(sources.items()))


def usable_documents(runs: list[LocatedRun]) -> tuple[SourceDocuments, SourceTexts, int, int]:
    """Finds the usable documents of a source.

    A document also counts as blank if the tokenizer gives no token for it, as for a zero-width space: its end-of-text
    would stand alone.

    Returns:
      The usable documents, what tells their texts apart, the number of all documents, and of blank ones.
    """

    def column(name: str) -> np.ndarray:
        return np.concatenate([run.rows[name] for run in runs])

    flags_R = column("flags")
    (start_D,) = np.nonzero(is_start(flags_R))
    stop_D = np.append(start_D[1:], len(flags_R))
    broken_D = np.bitwise_or.reduceat(flags_R, start_D) & BROKEN > 0
    tokens_D = np.add.reduceat(column("tokens"), start_D, dtype=np.int64)
    blank_D = ((np.bitwise_and.reduceat(flags_R & BLANK, start_D) > 0) | (tokens_D <= 1)) & ~broken_D
    (number_U,) = np.nonzero(~broken_D & ~blank_D)
    start_U, stop_U = start_D[number_U], stop_D[number_U]
    text_Rx2 = column("text")
    text_Ux2 = text_Rx2[start_U]
    for i in np.flatnonzero(stop_U - start_U > 1):  # a long text: the digest of its pieces' digests
        text_Ux2[i] = segments.digest(text_Rx2[start_U[i] : stop_U[i]].tobytes())
    position_R = np.concatenate([run.rows["number"] + np.int64(run.position) for run in runs])
    given_U = flags_R[start_U] & HELD_OUT > 0
    usable = SourceDocuments(number_U, tokens_D[number_U], column("hash")[start_U], given_U)
    return usable, SourceTexts(text_Ux2, position_R[start_U]), len(start_D), int(blank_D.sum())


def is_start(flags_R: np.ndarray) -> np.ndarray:
    """bool[R]: whether a document begins with the row."""
    return np.append(True, flags_R[:-1] & MORE == 0)


def is_first(text_Dx2: np.ndarray, position_D: np.ndarray) -> np.ndarray:
    """bool[D]: whether the document is the first with its text, by position."""
    order_D = np.lexsort((position_D, text_Dx2[:, 1], text_Dx2[:, 0]))
    text_Dx2 = text_Dx2[order_D]
    first_D = np.ones(len(order_D), bool)
    first_D[order_D[1:]] = np.any(text_Dx2[1:] != text_Dx2[:-1], axis=1)
    return first_D


def held_out(hash_D: np.ndarray, fraction: float, both: bool) -> np.ndarray:
    """bool[D]: which documents of a domain are held out. With `both`, at least one is, and of two or more not all."""
    held_D = hash_D < np.uint64(int(fraction * 2**64))
    if both and len(hash_D):
        held_D[np.argmin(hash_D)] = True
        held_D[np.argmax(hash_D)] = False
    return held_D


def copy_source(
    name: tuple[str, str],
    runs: list[LocatedRun],
    side_D: np.ndarray,
    cut_at: int | None,
    writers: tuple[StoreWriter, StoreWriter],
) -> None:
    """Appends the documents of a source to the stores, run by run.

    Args:
      side_D: the writer of each document, 0 or 1; -1: it is left out.
      cut_at: of a source with one document: so many tokens go to the first writer, the rest to the second.
    """
    rows = np.concatenate([run.rows[["tokens", "flags"]] for run in runs])
    start_R, tokens_R = is_start(rows["flags"]), rows["tokens"].astype(np.int64)
    side_R = side_D[np.cumsum(start_R) - 1]
    run_R = np.repeat(np.arange(len(runs)), [len(run.rows) for run in runs])
    if cut_at is not None and np.any(side_R >= 0):
        (of_it,) = np.nonzero(side_R >= 0)
        ends = np.cumsum(tokens_R[of_it])
        split = int(np.searchsorted(ends, cut_at))  # this row is split in two
        at, rest = of_it[split], ends[split] - cut_at
        side_R[of_it[: split + 1]], side_R[of_it[split + 1 :]] = 0, 1
        tokens_R[at] -= rest
        tokens_R, side_R = np.insert(tokens_R, at + 1, rest), np.insert(side_R, at + 1, 1)
        start_R, run_R = np.insert(start_R, at + 1, True), np.insert(run_R, at + 1, run_R[at])
    for side, writer in enumerate(writers):
        if np.any(side_R == side):
            writer.source(name[1], name[0])
    bounds = np.searchsorted(run_R, np.arange(len(runs) + 1))
    for run, first, stop in zip(runs, bounds, bounds[1:]):
        side, start, length = side_R[first:stop], start_R[first:stop], tokens_R[first:stop]
        if np.any(side >= 0):
            tokens = segments.read_run(run.segment, run.run, run.start)
            for number, writer in enumerate(writers):
                if np.any(mine := side == number):
                    wanted = tokens if mine.all() else tokens[np.repeat(mine, length)]
                    writer.add(wanted, *merged(length[mine], start[mine]))


def merged(length_R: np.ndarray, start_R: np.ndarray) -> tuple[np.ndarray, bool]:
    """The lengths of documents, from the lengths of their pieces; and whether the first one continues another."""
    first = np.flatnonzero(start_R)
    goes_on = not start_R[0]
    return np.add.reduceat(length_R, np.append(0, first) if goes_on else first), goes_on
