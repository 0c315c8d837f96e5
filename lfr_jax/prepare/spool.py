"""Inputs encoded chunk by chunk by worker processes, in a folder that another run of the same command goes on with.

A chunk's segment is named by all that decides its content. So a chunk that is there already is not
encoded again, and what another command left, with another tokenizer or of other text, is never taken for it.
"""

import concurrent.futures
import contextlib
import fcntl
import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from lfr_jax.data import tokenizer
from lfr_jax.data.tokenizer import Tokenizer
from lfr_jax.prepare import segments, text_source
from lfr_jax.prepare.segments import Segment
from lfr_jax.prepare.text_source import Chunk, Given, Input
from lfr_jax.storage.files import refuse_existing, write_atomically
from lfr_jax.storage.paths import require_local

AHEAD = 2  # chunks that wait for each worker
PATIENCE = 1000  # broken documents, before it is said while still encoding that there are too many


@contextlib.contextmanager
def work_folder(out: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A hidden folder beside `out` for the segments, held by this process alone.

    It goes when `out` is there, or when nothing in it is of use. Otherwise it stays, for the same command to go on.

    Raises:
      BlockingIOError: another process is at work on `out`.
      FileExistsError: `out` exists.
    """
    out = require_local(out).absolute()
    folder = out.with_name(f".{out.name}.preparing")
    if not folder.exists():
        refuse_existing(out)
    new_parents = [parent for parent in out.parents if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{out}: is being prepared by another process; wait for it, or stop it") from None
        for left in (*out.parent.glob(f".{out.name}.partial-*"), *folder.glob("*.tmp")):  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            refuse_existing(out)
            yield folder
        except BaseException:
            if not is_of_use(folder) or out.exists():
                shutil.rmtree(folder)
                with contextlib.suppress(OSError):  # another process may use them by now
                    for parent in new_parents:
                        parent.rmdir()
            raise
        shutil.rmtree(folder)


def is_of_use(folder: pathlib.Path) -> bool:
    """Whether a tokenizer was trained, or anything encoded: under a wrong name of a field, all chunks are empty."""
    tokens = (index.with_suffix(".tokens") for index in folder.glob("*.index"))
    return any(folder.glob("trained-*")) or any(path.is_file() and path.stat().st_size for path in tokens)


@contextlib.contextmanager
def kept_work_named(folder: pathlib.Path) -> Iterator[None]:
    """Adds to an error what stays in spite of it."""
    try:
        yield
    except Exception as error:
        if is_of_use(folder):
            error.add_note(
                f"What is done is kept in {folder}: once this is mended, the same command goes on from there."
            )
        raise


class Task(NamedTuple):
    chunk: Chunk
    path: pathlib.Path


class Spool:
    """Segments in `folder`.

    Args:
      advance: is told how many bytes of the inputs are done, each time that some are.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        words: Tokenizer,
        sample: float = 1.0,
        advance: Callable[[int], None] = lambda size: None,
    ):
        self.folder, self.words, self.sample, self.advance = folder, words, sample, advance
        self.settings = (words.digest, sample, text_source.PIECE_CHARS)
        self.paths: list[pathlib.Path] = []  # of the segments, in the order of the text
        self.problems: Counter[str] = Counter()  # broken documents by kind
        self.described: list[str] = []  # the first few of each segment

    def encode(self, inputs: Iterable[Input], workers: int = 1, tolerate: float = 0.0) -> list[Segment]:
        """Encodes what is not there yet, in `workers` processes; all segments, in the order of the text.

        Raises:
          OSError: the disk is full, or a worker was killed.
          ValueError: more than the share `tolerate` of the documents cannot be read; or an input is damaged.
        """
        documents = broken = 0
        first = list(itertools.islice(tasks := self.tasks(inputs), 2))
        tasks = itertools.chain(first, tasks)
        if workers == 1 or len(first) < 2:  # a process is not worth its start
            done = (segments.encode_chunk(*task, self.words, self.sample) for task in tasks)
        else:
            done = in_processes(tasks, self.folder / "tokenizer", self.words, self.sample, workers)
        for segment in done:
            self.advance(segment.size)
            documents += sum(run.rows for run in segment.runs)
            broken += sum(segment.problems.values())
            if broken > max(PATIENCE, tolerate * documents):
                refuse(broken, documents, tolerate, segment.described)
        encoded = [segments.load(path) for path in self.paths]
        for segment in encoded:
            self.problems.update(segment.problems)
            self.described += segment.described
        documents, broken = sum(len(segment.rows) for segment in encoded), self.problems.total()
        if broken > tolerate * documents:
            refuse(broken, documents, tolerate, self.described)
        return encoded

    def tasks(self, inputs: Iterable[Input]) -> Iterator[Task]:
        """What is still to do."""
        for place in inputs:
            if not self.take_whole(place):
                begun = len(self.paths)
                for number, chunk in enumerate(place.chunks()):
                    name = chunk.digest() if isinstance(chunk, Given) and not place.stamp else (place.stamp, number)
                    path = self.folder / text_source.stamp(self.settings, name)
                    self.paths.append(path)
                    if segments.load(path) is None:
                        yield Task(chunk, path)
                    else:
                        self.advance(chunk.size)
                if place.stamp:
                    write_atomically(self.list_of(place), "".join(f"{path.name}\n" for path in self.paths[begun:]))

    def take_whole(self, place: Input) -> bool:
        """Whether all of an input was encoded before: then it need not even be read."""
        if not place.stamp or not self.list_of(place).is_file():
            return False
        paths = [self.folder / name for name in self.list_of(place).read_text().split()]
        if not all(segments.load(path) for path in paths):
            return False
        self.paths += paths
        self.advance(place.size)
        return True

    def list_of(self, place: Input) -> pathlib.Path:
        return self.folder / f"{text_source.stamp(self.settings, place.stamp)}.input"


def refuse(broken: int, documents: int, tolerate: float, described: list[str]) -> None:
    raise ValueError(
        f"{described[0]}; {broken:,} of {documents:,} documents cannot be read, and the share of {tolerate:g} is "
        "tolerated: mend them, or leave more out with --tolerate"
    )


def in_processes(
    tasks: Iterator[Task], folder: pathlib.Path, words: Tokenizer, sample: float, workers: int
) -> Iterator[Segment]:
    """Encodes chunks in processes of their own, as they are free. The main one reads large files; few chunks wait."""
    words.save(folder)
    context = multiprocessing.get_context("spawn")  # a process with threads in it, such as JAX's, must not fork
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, begin_worker, (folder,))
    waiting = set()
    try:
        for chunk, path in tasks:
            waiting.add(pool.submit(encode_chunk, chunk, path, folder, sample))
            if len(waiting) >= AHEAD * workers:
                done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in concurrent.futures.as_completed(waiting))
    except BrokenProcessPool:
        raise OSError("a worker process was killed, perhaps for want of memory: take fewer with --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def begin_worker(folder: pathlib.Path) -> None:
    """In a worker: Ctrl-C is the main process's affair, and with the main process, however it ends, this one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process().sentinel

    def watch() -> None:
        multiprocessing.connection.wait([parent])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@functools.cache
def loaded(folder: pathlib.Path) -> Tokenizer:
    return tokenizer.load(folder)


def encode_chunk(chunk: Chunk, path: pathlib.Path, folder: pathlib.Path, sample: float) -> Segment:
    return segments.encode_chunk(chunk, path, loaded(folder), sample)._replace(rows=None)
