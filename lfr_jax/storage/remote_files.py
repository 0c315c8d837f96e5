"""Files of tokens wherever they lie: on this machine, or in an object store, with or without a cache on its disk.

The cache of an object is a sparse file of the same size, and a byte for each chunk of it, which
says whether the chunk is there. So a run begins at once, and a chunk crosses the network when it is
first read. fsspec's own `blockcache` does not serve: it holds a chunk to be there before its bytes
are, saves what it has only when the file is closed, and is read by one thread at a time.
"""

import contextlib
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator
from typing import NamedTuple

import fsspec
from etils import epath

from lfr_jax.storage.files import report_full_disk
from lfr_jax.storage.paths import Path, is_remote
from lfr_jax.storage.token_files import WILL_NEED, Stamp, StoreChanged, TokenFile, read_ahead, stamp

CHUNK = 1 << 20  # bytes
AT_ONCE = 64  # chunks that are asked for together, and held in memory


class Version(NamedTuple):
    """What shows that an object is still the one that was opened: a `Stamp`, which costs a request."""

    size: int  # bytes
    mark: str  # differs whenever the object was written anew


def stamp_of(path: Path) -> Stamp | Version:
    """What the file or object is known by now.

    Raises:
      FileNotFoundError: it is not there, nor perhaps its bucket.
      OSError: the object store cannot be reached, or does not let this user read.
    """
    if not is_remote(path):
        return stamp(path)
    system, name = fsspec.core.url_to_fs(os.fspath(path))
    with explained(path):
        found = system.info(name)
        return Version(found["size"], str(found.get("generation") or system.ukey(name)))


def exists(path: Path) -> bool:
    """Whether there is such a file or object; raises OSError where that cannot be told, as `stamp_of` does."""
    try:
        stamp_of(path)
    except FileNotFoundError:
        return False
    return True


def read_bytes(path: Path) -> bytes:
    """The whole of a small file or object; raises what `stamp_of` raises."""
    if not is_remote(path):
        return path.read_bytes()
    system, name = fsspec.core.url_to_fs(os.fspath(path))
    with explained(path):
        return system.cat_file(name)


@contextlib.contextmanager
def copied_here(path: Path) -> Iterator[pathlib.Path]:
    """The file; or a copy of the object on this machine, which is then removed. Raises what `stamp_of` raises."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lfr-") as folder:
        copy = pathlib.Path(folder) / path.name
        system, name = fsspec.core.url_to_fs(os.fspath(path))
        with explained(path):
            system.get_file(name, str(copy))
        yield copy


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the errors of many libraries, where `path` is a URL, into an OSError that says what to look at."""
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
    """An object, read as `TokenFile` reads a file: each run of bytes is a request, all of a call at the same time.

    Raises:
      StoreChanged: the object is not the one of `expected`.
    """

    def __init__(self, path: epath.Path, expected: Version):
        self.path, self.expected = path, expected
        self.check()

    def announce(self, starts: list[int], size: int) -> None:
        """Does nothing: `read` asks for everything at once."""

    def read(self, starts: list[int], size: int) -> bytes:
        """`size` bytes from each start on, one run after the other, all of them from the object as it was expected.

        Raises:
          StoreChanged: it changed, while they were read or before.
        """
        return b"".join(self.runs(starts, [start + size for start in starts]))

    def runs(self, starts: list[int], stops: list[int]) -> list[bytes]:
        """The bytes from each start to its stop."""
        # By name each time: an open connection would not outlive a fork.
        system, name = fsspec.core.url_to_fs(os.fspath(self.path))
        found = system.cat_ranges([name] * len(starts), starts, stops, on_error="return")
        # Versions do not come back, so the bytes between two looks at the same one are of that one.
        self.check()
        with explained(self.path):
            for run in found:
                if isinstance(run, Exception):
                    raise run
        lengths = [stop - start for start, stop in zip(starts, stops)]
        if [len(run) for run in found] != lengths:
            raise OSError(f"{self.path}: found {sum(map(len, found))} bytes, expected {sum(lengths)} from {starts}")
        return found

    def check(self) -> None:
        """Raises StoreChanged unless the object is there in the version expected."""
        try:
            found = stamp_of(self.path)
        except FileNotFoundError:
            found = None
        if found != self.expected:
            seen = f"{found.size} bytes of version {found.mark}" if found else "nothing there"
            raise StoreChanged(
                f"{self.path}: was changed while in use: found {seen}, expected {self.expected.size} bytes of version "
                f"{self.expected.mark}. Copy there what stood there (`lfr data verify` compares every byte) and start "
                "again: a run goes on from its last checkpoint"
            )


class CachedFile:
    """An object of which every chunk that was read stays in `folder`. Threads and processes may share the folder.

    Raises:
      StoreChanged: the object is not the one of `expected`.
    """

    def __init__(self, path: epath.Path, expected: Version, folder: pathlib.Path):
        self.remote, self.folder = RemoteFile(path, expected), folder
        # What another version, or another release with another size of chunks, left there has another name.
        self.file = folder / f"{path.name}.{expected.mark}"
        self.present = bytearray(-(-expected.size // CHUNK))  # as far as this process knows
        self.fetching = threading.Lock()
        with self.disk_guard():
            folder.mkdir(parents=True, exist_ok=True)
            self.descriptor = sized(self.file, expected.size)
            self.marks = sized(pathlib.Path(f"{self.file}.chunks-{CHUNK}"), len(self.present))

    def announce(self, starts: list[int], size: int) -> None:
        """Does nothing: `read` asks for everything at once."""

    def read(self, starts: list[int], size: int) -> bytes:
        """As of `RemoteFile`. Where all of it is in the cache, nothing is asked of the object store."""
        if self.missing(starts, size):
            # One thread at a time: two that miss the same chunks would both fetch them.
            with self.fetching:
                self.present[:] = os.pread(self.marks, len(self.present), 0)  # other processes fetch too
                missing = self.missing(starts, size)
                for first in range(0, len(missing), AT_ONCE):
                    self.fetch(missing[first : first + AT_ONCE])
        for start in starts:
            read_ahead(self.descriptor, start, size, WILL_NEED)
        found = b"".join([os.pread(self.descriptor, size, start) for start in starts])
        if len(found) < size * len(starts):
            raise OSError(f"{self.file}: found {len(found)} bytes, expected {size * len(starts)}; delete {self.folder}")
        return found

    def missing(self, starts: list[int], size: int) -> list[int]:
        """The chunks that these bytes lie in and that are not there, in rising order."""
        touched = {chunk for start in starts for chunk in range(start // CHUNK, (start + size - 1) // CHUNK + 1)}
        return sorted(chunk for chunk in touched if not self.present[chunk])

    def fetch(self, chunks: list[int]) -> None:
        size = self.remote.expected.size
        starts = [chunk * CHUNK for chunk in chunks]
        found = self.remote.runs(starts, [min(start + CHUNK, size) for start in starts])
        with self.disk_guard():
            for start, run in zip(starts, found):
                os.pwrite(self.descriptor, run, start)
            # The bytes before the marks, on the disk too: a machine that loses power loses the newest writes.
            os.fsync(self.descriptor)
            for chunk in chunks:
                os.pwrite(self.marks, b"\1", chunk)
                self.present[chunk] = 1

    def disk_guard(self) -> contextlib.AbstractContextManager[None]:
        """Names the settings of the cache if the disk is full."""
        remedy = (
            f"{self.remote.path} has {self.remote.expected.size:,} bytes; make room, name a folder on another disk "
            "(--data.cache, or LFR_CACHE), or keep nothing (--data.cache '')"
        )
        return report_full_disk(self.folder, remedy)

    def __del__(self):
        for name in ("descriptor", "marks"):
            if name in self.__dict__:
                os.close(self.__dict__[name])


def sized(path: pathlib.Path, size: int) -> int:
    """The descriptor of a file that has `size` bytes: zeros, which take no space, where it is new."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if os.fstat(descriptor).st_size != size:
        os.ftruncate(descriptor, size)
    return descriptor


def cache_folder(setting: str | None, fingerprint: str) -> pathlib.Path | None:
    """Where chunks of the store `fingerprint` are kept; None: nowhere. `setting` is that of `data.cache`."""
    chosen = os.environ.get("LFR_CACHE", "~/.cache/lfr_jax") if setting is None else setting
    return pathlib.Path(chosen).expanduser() / fingerprint if chosen else None


def open_tokens(
    path: Path, expected: Stamp | Version, cache: pathlib.Path | None
) -> TokenFile | RemoteFile | CachedFile:
    """Opens a file of tokens. The folder `cache` is for objects.

    Raises:
      StoreChanged: the file is not the one of `expected`.
    """
    if not is_remote(path):
        return TokenFile(path, expected)
    return CachedFile(path, expected, cache) if cache else RemoteFile(path, expected)
