"""Files and folders that are either whole or not there."""

import contextlib
import errno
import os
import pathlib
import shutil
import types
import uuid
from collections.abc import Iterator
from typing import TextIO

import numpy as np

from lfr_jax.storage.paths import on_this_machine


@contextlib.contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[TextIO]:
    """Opens a text file that takes the place of `path` once it is written and synced.

    Readers, and a process killed at any moment, leave either the old file or the new one, whole.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def report_full_disk(path: str | os.PathLike, remedy: str = "") -> Iterator[None]:
    """Says which disk is full. The system's own error often names no file.

    Without `remedy`, the error stays as it is and gets `path` as its file name, if it has none. With `remedy`, a new
    error names `path` and says what to do.

    Raises:
      OSError: the disk is full, or the quota is used up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if remedy:
            raise OSError(f"{path}: the disk is full ({error}); {remedy}") from error
        error.filename = error.filename or os.fspath(path)
        raise


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as the whole of `path`."""
    with complete_file(path) as file:
        file.write(text)


def save_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """As `np.save`, whose own way to a file hides why it failed, as on a full disk."""
    with open(path, "wb") as file:
        np.save(types.SimpleNamespace(write=file.write), array)


@contextlib.contextmanager
def complete_folder(target: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a new folder beside `target`, named `target` once all is well and synced, removed otherwise.

    Raises:
      FileExistsError: `target` exists.
    """
    target = on_this_machine(target).absolute()
    refuse_existing(target)
    partial = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")
    new_parents = [parent for parent in target.parents if not parent.exists()]
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            if not path.is_symlink():  # what it points to is not ours
                sync(path)
        os.rename(partial, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process may use them by now
            for parent in new_parents:
                parent.rmdir()
        raise


def refuse_existing(target: str | os.PathLike) -> None:
    if os.path.lexists(on_this_machine(target)):
        raise FileExistsError(f"{target}: exists, and is never overwritten; remove it or choose another name")


def sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
