"""Atomic writes: a file or folder is there completely, or not at all. Also the report of a full disk."""

import contextlib
import errno
import os
import pathlib
import shutil
import stat
import types
import uuid
from collections.abc import Iterator
from typing import TextIO

import numpy as np

from lfr_jax.storage.paths import require_local


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[TextIO]:
    """Opens a new text file that replaces `path` when the block ends without an error.

    Readers see the complete old file or the complete new one, also if this process is killed at any moment.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as the whole content of `path`."""
    with atomic_file(path) as file:
        file.write(text)


def save_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Like `np.save`, but an error keeps its reason: `np.save` itself hides, for example, that the disk is full."""
    with open(path, "wb") as file:
        np.save(types.SimpleNamespace(write=file.write), array)


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a new folder beside `target`. It is renamed to `target` when the block ends, and removed after an error.

    Raises:
      FileExistsError: `target` exists.
    """
    target = require_local(target).absolute()
    refuse_existing(target)
    partial = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")
    new_parents = [parent for parent in target.parents if not parent.exists()]
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            if not path.is_symlink():  # its target is not ours to sync
                fsync(path)
        os.rename(partial, target)
        fsync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process may have written into them
            for parent in new_parents:
                parent.rmdir()
        raise


def refuse_existing(target: str | os.PathLike) -> None:
    if os.path.lexists(require_local(target)):
        raise FileExistsError(f"{target}: exists, and is never overwritten; remove it or choose another name")


KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular(path: str | os.PathLike) -> None:
    """Refuses what is no regular file, before it is opened: a pipe would make the reader wait, and a device never end.

    Symbolic links are followed.

    Raises:
      FileNotFoundError: `path` does not exist.
      OSError: `path` is a folder, a named pipe, a socket or a device.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        found = KINDS.get(stat.S_IFMT(mode), "no file")
        raise OSError(f"{os.fspath(path)}: found {found}, expected a regular file")


def fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explain_full_disk(folder: str | os.PathLike, advice: str = "") -> Iterator[None]:
    """Adds to the error of a full disk which folder is on it, and what to do.

    Raises:
      OSError: the disk is full. Other errors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = advice or "make room on it, and run the same command again"
            raise OSError(f"{os.fspath(folder)}: the disk is full ({error}); {advice}") from error
        raise
