"""Reads token ids from a file by position, and notices when the file changes while it is open."""

import os
import pathlib
import weakref
from typing import NamedTuple

from lfr_jax.storage.files import require_regular


class Stamp(NamedTuple):
    """Identifies a version of a file by what one system call returns."""

    size: int  # bytes
    modified: int  # nanoseconds since 1970
    inode: int


class StoreChanged(OSError):
    """A file of a store was changed, truncated or replaced while the store was open."""


def stamp(file: str | os.PathLike | int) -> Stamp:
    """The stamp of a file, given its path or its descriptor."""
    found = os.stat(file)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)


# macOS has no such call.
read_ahead = getattr(os, "posix_fadvise", lambda descriptor, start, size, advice: None)
WILL_NEED = getattr(os, "POSIX_FADV_WILLNEED", 0)


def close_with(owner: object, descriptor: int) -> None:
    """Closes `descriptor` when `owner` is garbage-collected. At the end of the process, the system does."""
    weakref.finalize(owner, os.close, descriptor).atexit = False


class TokenFile:
    """An open file of tokens. Several threads may read from it; it is closed when it is garbage-collected.

    It uses `pread`, not `mmap`, for two reasons. If a mapped file is truncated, the process dies of SIGBUS; here
    it is an error. And the blocks of a batch are requested from a cold disk together, not one after the other.

    Raises:
      OSError: the path is not a regular file.
      StoreChanged: the file does not have the stamp `expected`.
    """

    def __init__(self, path: pathlib.Path, expected: Stamp):
        self.path, self.expected = path, expected
        require_regular(path)
        self.descriptor = os.open(path, os.O_RDONLY)
        close_with(self, self.descriptor)
        self.check_unchanged()

    def prefetch(self, starts: list[int], size: int) -> None:
        """Asks the system to load `size` bytes from each start into memory. Returns at once."""
        for start in starts:
            read_ahead(self.descriptor, start, size, WILL_NEED)

    def read(self, starts: list[int], size: int) -> bytes:
        """`size` bytes from each start, concatenated.

        Raises:
          StoreChanged: the file changed since it was opened.
        """
        found = b"".join([os.pread(self.descriptor, size, start) for start in starts])
        self.check_unchanged()
        if len(found) < size * len(starts):
            raise OSError(f"{self.path}: found {len(found)} bytes, expected {size * len(starts)} from {starts}")
        return found

    def check_unchanged(self) -> None:
        """Raises StoreChanged unless size, modification time and inode are as expected."""
        found = stamp(self.descriptor)
        if found != self.expected:
            raise StoreChanged(
                f"{self.path}: was changed while in use: found {found.size} bytes of time {found.modified / 1e9:.6f}, "
                f"expected {self.expected.size} bytes of time {self.expected.modified / 1e9:.6f}. Restore the "
                "file (`lfr data verify` compares every byte) and start again: a run continues from its last checkpoint"
            )
