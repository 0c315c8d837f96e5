"""Where outputs are made until they are whole, and how what killed processes left there is removed.

The output NAME is made in the hidden folder `.NAME.partial-1` beside it. The process that makes it holds a lock on the
file `lock` in this folder. The kernel releases the lock when the process ends, also by `kill -9`. So the next process
that makes NAME takes the folder over, or the next number if another process still holds the lock.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

AT_ONCE = 8  # processes that can make the same output at the same time
TEMPORARY = "lfr-"  # how the names of our temporary folders begin


class Claim(NamedTuple):
    """A folder that this process has locked."""

    folder: pathlib.Path
    lock: int  # descriptor of the file that is locked

    @property
    def content(self) -> pathlib.Path:
        return self.folder / "content"

    def remove_content(self) -> None:
        if self.content.is_dir() and not self.content.is_symlink():
            shutil.rmtree(self.content, ignore_errors=True)
        else:
            self.content.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder. The lock goes last: a folder without one is never taken for a dead process's."""
        self.remove_content()
        with contextlib.suppress(OSError):  # somebody else's file is in it, or another process claims it already
            lock_of(self.folder).unlink()
            self.folder.rmdir()
        os.close(self.lock)


def claim(folder: pathlib.Path) -> Claim | None:
    """Locks a folder. None if another process holds it, or has just removed it."""
    try:
        lock = os.open(lock_of(folder), os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.stat(lock_of(folder)), os.fstat(lock)):  # else its holder has removed it meanwhile
            return Claim(folder, lock)
    os.close(lock)
    return None


def lock_of(folder: pathlib.Path) -> pathlib.Path:
    return folder / "lock"


@contextlib.contextmanager
def unfinished(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a free path beside `target`, to make it there and rename it. What is left there at the end is removed.

    What dead processes left of `target` is removed first.

    Raises:
      BlockingIOError: too many processes make `target` now.
    """
    for folder in folders_of(target):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        if claimed := claim(folder):
            break
    else:
        raise BlockingIOError(f"{target}: {AT_ONCE} processes are making it; wait for one of them, or stop it")
    try:
        claimed.remove_content()
        remove_leftovers(target)
        yield claimed.content
    finally:
        claimed.remove()


def folders_of(target: pathlib.Path) -> list[pathlib.Path]:
    return [target.with_name(f".{target.name}.partial-{number}") for number in range(1, AT_ONCE + 1)]


def remove_leftovers(target: pathlib.Path) -> None:
    """Removes what dead processes left of `target`."""
    for folder in folders_of(target):
        if folder.is_dir() and (dead := claim(folder)):
            dead.remove()


def remove_leftovers_in(folder: pathlib.Path) -> None:
    """Removes what dead processes left of all outputs in `folder`, which may be missing."""
    if folder.is_dir():
        found = (re.fullmatch(r"\.(.+)\.partial-\d+", path.name, re.DOTALL) for path in folder.iterdir())
        for name in {match[1] for match in found if match}:
            remove_leftovers(folder / name)


@contextlib.contextmanager
def temporary_folder() -> Iterator[pathlib.Path]:
    """Yields a new folder on this machine, and removes it at the end; a folder that is renamed meanwhile stays.

    Those that dead processes left are removed first.
    """
    for left in pathlib.Path(tempfile.gettempdir()).iterdir():
        if left.name.startswith(TEMPORARY) and is_ours(left) and (dead := claim(left)):
            dead.remove()
    while not (claimed := claim(pathlib.Path(tempfile.mkdtemp(prefix=TEMPORARY)))):
        pass  # another process has seen the new folder before it was locked, and removed it
    try:
        claimed.content.mkdir()
        yield claimed.content
    finally:
        claimed.remove()


def is_ours(folder: pathlib.Path) -> bool:
    """Whether a folder is this user's, and has a lock. Older releases made folders without one."""
    with contextlib.suppress(FileNotFoundError):
        return folder.lstat().st_uid == os.getuid() and lock_of(folder).is_file()
    return False
