"""Reads files from an object store; token files may be cached on the local disk.

The cache of an object is a sparse file of the same size, plus one byte per chunk that says whether the chunk is
there. So training starts at once, and each chunk is downloaded when it is first read. fsspec's own `blockcache`
is not used: it marks a chunk as present before its bytes are, saves its index only when the file is closed, and
lets only one thread read.
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

import fsspec
from etils import epath

from lfr_jax.storage.files import explain_full_disk, require_regular
from lfr_jax.storage.paths import Path, is_remote
from lfr_jax.storage.token_files import WILL_NEED, Stamp, StoreChanged, TokenFile, close_with, read_ahead, stamp
from lfr_jax.storage.unfinished import temporary_folder

CHUNK = 1 << 20  # bytes
CHUNKS_AT_ONCE = 64  # chunks that are requested together, and held in memory


class Version(NamedTuple):
    """Identifies a version of an object. The `Stamp` of object stores; getting it costs one request."""

    size: int  # bytes
    mark: str  # changes whenever the object is rewritten


def stamp_of(path: Path) -> Stamp | Version:
    """The current stamp of a file, or version of an object.

    Raises:
      FileNotFoundError: the file, the object or its bucket does not exist.
      OSError: the object store cannot be reached, or denies access.
    """
    if not is_remote(path):
        return stamp(path)
    system, name = fsspec.core.url_to_fs(os.fspath(path))
    with explain_errors(path):
        found = system.info(name)
        return Version(found["size"], str(found.get("generation") or system.ukey(name)))


def exists(path: Path) -> bool:
    """Whether the file or object exists. Raises OSError if the object store does not say."""
    try:
        stamp_of(path)
    except FileNotFoundError:
        return False
    return True


def read_bytes(path: Path) -> bytes:
    """The content of a small file or object.

    Raises:
      FileNotFoundError, OSError: as `stamp_of`, or the path is not a regular file.
    """
    if not is_remote(path):
        require_regular(path)
        return path.read_bytes()
    system, name = fsspec.core.url_to_fs(os.fspath(path))
    with explain_errors(path):
        return system.cat_file(name)


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[pathlib.Path]:
    """Yields the file itself, or a temporary copy of the object. Raises what `read_bytes` raises."""
    if not is_remote(path):
        require_regular(path)
        yield path
        return
    with temporary_folder() as folder:
        copy = folder / path.name
        system, name = fsspec.core.url_to_fs(os.fspath(path))
        with explain_errors(path):
            system.get_file(name, str(copy))
        yield copy


@contextlib.contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """If `path` is a URL, turns the errors of the libraries below into an OSError that says what to check."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: is not there") from error
    except Exception as error:
        if not is_remote(path):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise OSError(
            f"{path}: the object store does not answer as it should ({reason}). Check the name of the bucket, your "
            "rights to it (`gcloud auth application-default login` says who you are), and the network"
        ) from error


class RemoteFile:
    """A `TokenFile` in an object store, without a cache. `read` sends one request per start, all at the same time.

    Raises:
      StoreChanged: the object does not have the version `expected`.
    """

    def __init__(self, path: epath.Path, expected: Version):
        self.path, self.expected = path, expected
        self.check_unchanged()

    def prefetch(self, starts: list[int], size: int) -> None:
        """Does nothing: `read` asks for everything at once."""

    def read(self, starts: list[int], size: int) -> bytes:
        """`size` bytes from each start, concatenated.

        Raises:
          StoreChanged: the object changed since it was opened.
        """
        return b"".join(self.read_ranges(starts, [start + size for start in starts]))

    def read_ranges(self, starts: list[int], stops: list[int]) -> list[bytes]:
        """The bytes from each start to its stop."""
        # Looked up each time: an open connection does not survive a fork.
        system, name = fsspec.core.url_to_fs(os.fspath(self.path))
        found = system.cat_ranges([name] * len(starts), starts, stops, on_error="return")
        # A reply does not name its version. If the version is the same before and after, the bytes are of it.
        self.check_unchanged()
        with explain_errors(self.path):
            for run in found:
                if isinstance(run, Exception):
                    raise run
        lengths = [stop - start for start, stop in zip(starts, stops)]
        if [len(run) for run in found] != lengths:
            raise OSError(f"{self.path}: found {sum(map(len, found))} bytes, expected {sum(lengths)} from {starts}")
        return found

    def check_unchanged(self) -> None:
        """Raises StoreChanged unless the object has the expected version."""
        try:
            found = stamp_of(self.path)
        except FileNotFoundError:
            found = None
        if found != self.expected:
            seen = f"{found.size} bytes of version {found.mark}" if found else "nothing there"
            raise StoreChanged(
                f"{self.path}: was changed while in use: found {seen}, expected {self.expected.size} bytes of version "
                f"{self.expected.mark}. Restore the object (`lfr data verify` compares every byte) and start again: a "
                "run continues from its last checkpoint"
            )


class CachedFile:
    """A `TokenFile` in an object store whose chunks are cached in `folder`. Threads and processes may share it.

    Raises:
      StoreChanged: the object does not have the version `expected`.
    """

    def __init__(self, path: epath.Path, expected: Version, folder: pathlib.Path):
        self.remote, self.folder = RemoteFile(path, expected), folder
        # Version and chunk size are part of the names, so files of other versions or releases are never used.
        self.file = folder / f"{path.name}.{expected.mark}"
        self.present = bytearray(-(-expected.size // CHUNK))  # as far as this process knows
        self.fetch_lock = threading.Lock()
        with self.explain_full_disk():
            folder.mkdir(parents=True, exist_ok=True)
            self.descriptor = open_sized(self.file, expected.size)
            close_with(self, self.descriptor)
            self.marks = open_sized(pathlib.Path(f"{self.file}.chunks-{CHUNK}"), len(self.present))
            close_with(self, self.marks)

    def prefetch(self, starts: list[int], size: int) -> None:
        """Does nothing: `read` asks for everything at once."""

    def read(self, starts: list[int], size: int) -> bytes:
        """Like `RemoteFile.read`. Sends no request if all of it is cached."""
        if self.missing_chunks(starts, size):
            # One thread at a time, or two threads would download the same chunks.
            with self.fetch_lock:
                self.present[:] = os.pread(self.marks, len(self.present), 0)  # other processes download too
                missing = self.missing_chunks(starts, size)
                for first in range(0, len(missing), CHUNKS_AT_ONCE):
                    self.fetch_chunks(missing[first : first + CHUNKS_AT_ONCE])
        for start in starts:
            read_ahead(self.descriptor, start, size, WILL_NEED)
        found = b"".join([os.pread(self.descriptor, size, start) for start in starts])
        if len(found) < size * len(starts):
            raise OSError(f"{self.file}: found {len(found)} bytes, expected {size * len(starts)}; delete {self.folder}")
        return found

    def missing_chunks(self, starts: list[int], size: int) -> list[int]:
        """The chunks of these bytes that are not cached, in rising order."""
        touched = {chunk for start in starts for chunk in range(start // CHUNK, (start + size - 1) // CHUNK + 1)}
        return sorted(chunk for chunk in touched if not self.present[chunk])

    def fetch_chunks(self, chunks: list[int]) -> None:
        size = self.remote.expected.size
        starts = [chunk * CHUNK for chunk in chunks]
        found = self.remote.read_ranges(starts, [min(start + CHUNK, size) for start in starts])
        with self.explain_full_disk():
            for start, run in zip(starts, found):
                os.pwrite(self.descriptor, run, start)
            # Sync the bytes before their marks are set: a machine that loses power loses its newest writes.
            os.fsync(self.descriptor)
            for chunk in chunks:
                os.pwrite(self.marks, b"\1", chunk)
                self.present[chunk] = 1

    def explain_full_disk(self) -> contextlib.AbstractContextManager:
        return explain_full_disk(
            self.folder,
            f"{self.remote.path} has {self.remote.expected.size:,} bytes; make room, choose a folder on another disk "
            "(--data.cache, or LFR_CACHE), or turn the cache off (--data.cache '')",
        )


def open_sized(path: pathlib.Path, size: int) -> int:
    """Opens a file of `size` bytes. A new one is sparse: zeros that take no space."""
    if os.path.exists(path):
        require_regular(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if os.fstat(descriptor).st_size != size:
        os.ftruncate(descriptor, size)
    return descriptor


def cache_folder(setting: str | None, fingerprint: str) -> pathlib.Path | None:
    """The cache folder of the store `fingerprint`, by the setting `data.cache`. None: no cache."""
    chosen = os.environ.get("LFR_CACHE", "~/.cache/lfr_jax") if setting is None else setting
    return pathlib.Path(chosen).expanduser() / fingerprint if chosen else None


def open_tokens(
    path: Path, expected: Stamp | Version, cache: pathlib.Path | None
) -> TokenFile | RemoteFile | CachedFile:
    """Opens a file of tokens on this machine or in an object store. `cache`: folder for an object's chunks.

    Raises:
      StoreChanged: the file does not have the stamp `expected`.
    """
    if not is_remote(path):
        return TokenFile(path, expected)
    return CachedFile(path, expected, cache) if cache else RemoteFile(path, expected)
