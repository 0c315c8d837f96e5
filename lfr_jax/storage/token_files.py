"""A file of token ids, read by position: runs of tokens on disk, and what is done when the file changes meanwhile."""

import os
import pathlib
from typing import NamedTuple


class Part(NamedTuple):
    """A run of tokens in one file. A store's tokens are those of its parts, one part after the other."""

    file: str  # its name in the store's folder
    dtype: str  # of a token: a NumPy integer type, such as '<u2'
    offset: int  # bytes of the file before the first token
    tokens: int


class Stamp(NamedTuple):
    """What shows that a file is still the one that was opened, at the cost of a system call."""

    size: int  # bytes
    modified: int  # nanoseconds since 1970
    inode: int


class StoreChanged(OSError):
    """A file of a store was written to, cut off or replaced while the store was open."""


def stamp(file: str | os.PathLike | int) -> Stamp:
    """The stamp of a file, by its name or by its descriptor."""
    found = os.stat(file)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)


# macOS has no such call, and reads without being told.
read_ahead = getattr(os, "posix_fadvise", lambda descriptor, start, size, advice: None)
WILL_NEED = getattr(os, "POSIX_FADV_WILLNEED", 0)


class TokenFile:
    """An open file of tokens. Several threads may read from it; it closes when nobody holds it.

    It is read by calls, not through a mapping, for two reasons. Where a mapped file was cut off,
    the process dies of SIGBUS; here it is an error. And blocks that are not in memory are asked
    for all at once, in place of one after the other.

    Raises:
      StoreChanged: the file is not the one of `expected`.
    """

    def __init__(self, path: pathlib.Path, expected: Stamp):
        self.path, self.expected = path, expected
        self.descriptor = os.open(path, os.O_RDONLY)
        self.check()

    def announce(self, starts: list[int], size: int) -> None:
        """Tells the system that `size` bytes from each start on will be read, and returns at once."""
        for start in starts:
            read_ahead(self.descriptor, start, size, WILL_NEED)

    def read(self, starts: list[int], size: int) -> bytes:
        """`size` bytes from each start on, one run after the other, all of them from the file as it was expected.

        Raises:
          StoreChanged: it changed, while they were read or before.
        """
        found = b"".join([os.pread(self.descriptor, size, start) for start in starts])
        self.check()
        if len(found) < size * len(starts):
            raise OSError(f"{self.path}: found {len(found)} bytes, expected {size * len(starts)} from {starts}")
        return found

    def check(self) -> None:
        """Raises StoreChanged unless size, time of modification and inode are those expected."""
        found = stamp(self.descriptor)
        if found != self.expected:
            raise StoreChanged(
                f"{self.path}: was changed while in use: found {found.size} bytes of time {found.modified / 1e9:.6f}, "
                f"expected {self.expected.size} bytes of time {self.expected.modified / 1e9:.6f}. Put back what stood "
                "there (`lfr data verify` compares every byte) and start again: a run goes on from its last checkpoint"
            )

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
