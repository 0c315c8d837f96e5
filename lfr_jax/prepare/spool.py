"""Encodes inputs chunk by chunk, in worker processes. If the command is killed, running it again goes on from there.

The name of a segment is a hash of all that decides its content. So a chunk is not encoded twice, and a segment of
another tokenizer or of other text is never used by mistake.
"""

import concurrent.futures
import contextlib
import fcntl
import functools
import itertools
import os
import pathlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from lfr_jax.data.tokenizer import Tokenizer, load_tokenizer
from lfr_jax.prepare import segments, text_source
from lfr_jax.prepare.segments import Segment
from lfr_jax.prepare.text_source import Chunk, Input, MemoryChunk
from lfr_jax.prepare.workers import killed, portable, process_pool
from lfr_jax.storage.files import write_atomically
from lfr_jax.storage.paths import refuse_existing, require_local
from lfr_jax.storage.unfinished import remove_leftovers_in

AHEAD = 2  # chunks that wait for each worker
PATIENCE = 1000  # with more unreadable documents than this, their share is checked while still encoding


@contextlib.contextmanager
def work_folder(out: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A hidden folder beside `out` for the segments. This process holds it alone.

    It is removed once `out` exists, or if it holds no work. Otherwise it stays, so that the same command goes on with
    it.

    Raises:
      BlockingIOError: another process is preparing `out`.
      FileExistsError: `out` exists.
    """
    out = require_local(out).absolute()
    folder = out.with_name(f".{out.name}.preparing")
    if not folder.exists():
        refuse_existing(out)
    new_parents = [parent for parent in out.parents if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{out}: is being prepared by another process; wait for it, or stop it") from None
        remove_leftovers_in(folder)
        for left in folder.glob("*.tmp"):  # of a killed process
            left.unlink()
        try:
            refuse_existing(out)
            yield folder
        except BaseException:
            if not holds_work(folder) or out.exists():
                shutil.rmtree(folder)
                with contextlib.suppress(OSError):  # another process may use them
                    for parent in new_parents:
                        parent.rmdir()
            raise
        shutil.rmtree(folder)


def remove_work_of_finished(out: str | os.PathLike) -> None:
    """Removes the work folder of an `out` that is there, unless another process holds it."""
    with contextlib.suppress(FileExistsError, BlockingIOError), work_folder(out):
        pass


def holds_work(folder: pathlib.Path) -> bool:
    """Whether a tokenizer was trained, or text encoded. (With a wrong field name, all segments are empty.)"""
    tokens = (index.with_suffix(".tokens") for index in folder.glob("*.index"))
    return any(folder.glob("trained-*")) or any(path.is_file() and path.stat().st_size for path in tokens)


@contextlib.contextmanager
def name_kept_work(folder: pathlib.Path) -> Iterator[None]:
    """Adds a note to an error: where the work is kept, if there is some."""
    try:
        yield
    except Exception as error:
        if holds_work(folder):
            error.add_note(
                f"What is done is kept in {folder}: once this is mended, the same command goes on from there."
            )
        raise


class Task(NamedTuple):
    """A chunk, and the segment to write."""

    chunk: Chunk
    path: pathlib.Path


class Spool:
    """Encodes inputs into segments in `folder`.

    Args:
      sample: only documents whose hash is below this share are encoded.
      advance: called with the number of bytes of the inputs that were done, again and again.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        tokenizer: Tokenizer,
        sample: float = 1.0,
        advance: Callable[[int], None] = lambda size: None,
    ):
        self.folder, self.tokenizer, self.sample, self.advance = folder, tokenizer, sample, advance
        self.settings = (tokenizer.digest, sample, text_source.PIECE_CHARS)
        self.paths: list[pathlib.Path] = []  # of the segments, in the order of the text
        self.problems: Counter[str] = Counter()  # the number of documents with a problem, by kind
        self.described: list[str] = []  # the first problems of each segment

    def encode(self, inputs: Iterable[Input], workers: int = 1, tolerate: float = 0.0) -> list[Segment]:
        """Encodes the chunks that have no segment yet, in `workers` processes.

        Returns:
          All segments, in the order of the text.

        Raises:
          OSError: the disk is full, or a worker was killed.
          ValueError: more than the share `tolerate` of the documents cannot be read, or an input is damaged.
        """
        documents = broken = 0
        first = list(itertools.islice(tasks := self.tasks(inputs), 2))
        tasks = itertools.chain(first, tasks)
        if workers == 1 or len(first) < 2:  # too little work for a second process
            done = (segments.encode_chunk(*task, self.tokenizer, self.sample) for task in tasks)
        else:
            done = in_processes(tasks, self.folder / "tokenizer", self.tokenizer, self.sample, workers)
        for segment in done:
            self.advance(segment.size)
            documents += sum(run.rows for run in segment.runs)
            broken += sum(segment.problems.values())
            if broken > max(PATIENCE, tolerate * documents):
                refuse_too_many_broken(broken, documents, tolerate, segment.described)
        encoded = [segments.load_segment(path) for path in self.paths]
        for segment in encoded:
            self.problems.update(segment.problems)
            self.described += segment.described
        documents, broken = sum(len(segment.rows) for segment in encoded), self.problems.total()
        if broken > tolerate * documents:
            refuse_too_many_broken(broken, documents, tolerate, self.described)
        return encoded

    def tasks(self, inputs: Iterable[Input]) -> Iterator[Task]:
        """The chunks that have no segment yet. Also adds the paths of all segments to `paths`."""
        for text_input in inputs:
            if not self.reuse_input(text_input):
                begun = len(self.paths)
                for number, chunk in enumerate(text_input.chunks()):
                    name = (
                        chunk.digest()
                        if isinstance(chunk, MemoryChunk) and not text_input.stamp
                        else (text_input.stamp, number)
                    )
                    path = self.folder / text_source.stamp(self.settings, name)
                    self.paths.append(path)
                    if segments.load_segment(path) is None:
                        yield Task(chunk, path)
                    else:
                        self.advance(chunk.size)
                if text_input.stamp:
                    names = "".join(f"{path.name}\n" for path in self.paths[begun:])
                    write_atomically(self.list_file(text_input), f"{text_source.stamp(names)}\n{names}")

    def reuse_input(self, text_input: Input) -> bool:
        """Whether all of an input was encoded before. If so, it is not read again."""
        if not text_input.stamp or not self.list_file(text_input).is_file():
            return False
        digest, _, names = self.list_file(text_input).read_text(encoding="utf-8", errors="replace").partition("\n")
        if text_source.stamp(names) != digest:  # if the machine lost power, a file may be cut off
            return False
        paths = [self.folder / name for name in names.split()]
        if not all(segments.load_segment(path) for path in paths):
            return False
        self.paths += paths
        self.advance(text_input.size)
        return True

    def list_file(self, text_input: Input) -> pathlib.Path:
        """The file that lists the segments of an input, once all of them are there."""
        return self.folder / f"{text_source.stamp(self.settings, text_input.stamp)}.input"


def refuse_too_many_broken(broken: int, documents: int, tolerate: float, described: list[str]) -> None:
    raise ValueError(
        f"{described[0]}; {broken:,} of {documents:,} documents cannot be read, and the share of {tolerate:g} is "
        "tolerated: mend them, or leave more out with --tolerate"
    )


def in_processes(
    tasks: Iterator[Task], folder: pathlib.Path, tokenizer: Tokenizer, sample: float, workers: int
) -> Iterator[Segment]:
    """Encodes chunks in worker processes; yields the segments as they are done.

    The main process makes the chunks, which reads large files, and few chunks wait at a time.
    """
    tokenizer.save(folder)
    waiting: dict[concurrent.futures.Future, str] = {}  # in the order in which they were begun, with their names

    def finished() -> Iterator[Segment]:
        done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            yield future.result()
            del waiting[future]

    with process_pool(workers) as pool:
        try:
            for chunk, path in tasks:
                waiting[pool.submit(portable, encode_chunk, chunk, path, folder, sample)] = chunk.name
                if len(waiting) >= AHEAD * workers:
                    yield from finished()
            while waiting:
                yield from finished()
        except BrokenProcessPool:
            begun = [name for future, name in waiting.items() if not future.done() or future.exception()]
            raise killed(" or ".join(begun[:workers])) from None


@functools.cache
def cached_tokenizer(folder: pathlib.Path) -> Tokenizer:
    """The tokenizer of `folder`, loaded once in each worker."""
    return load_tokenizer(folder)


def encode_chunk(chunk: Chunk, path: pathlib.Path, folder: pathlib.Path, sample: float) -> Segment:
    """Runs in a worker. The rows stay there: the main process reads them from disk later."""
    return segments.encode_chunk(chunk, path, cached_tokenizer(folder), sample)._replace(rows=None)
