"""Atomic writes: a file or folder is there completely, or not at all. Also the report of a full disk."""

import contextlib
import errno
import json
import os
import pathlib
import stat
import types
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from lfr_jax.storage.made_from import write_made_from
from lfr_jax.storage.paths import refuse_existing, require_local
from lfr_jax.storage.unfinished import unfinished


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[TextIO]:
    """Opens a new text file that replaces `path` when the block ends without an error.

    Readers see the complete old file or the complete new one, also if this process is killed at any moment.
    """
    path = pathlib.Path(path)
    with unfinished(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as the whole content of `path`."""
    with atomic_file(path) as file:
        file.write(text)


def save_json(path: str | os.PathLike, content: Any) -> None:
    """Writes a JSON value, in UTF-8; for a folder that does not have its name yet, see `atomic_folder`."""
    pathlib.Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def save_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Like `np.save`, but an error keeps its reason: `np.save` itself hides, for example, that the disk is full."""
    with open(path, "wb") as file:
        np.save(types.SimpleNamespace(write=file.write), array)


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike, made_from: dict[str, Any] | None = None) -> Iterator[pathlib.Path]:
    """Yields a new folder. It is renamed to `target` when the block ends, and removed after an error.

    Args:
      made_from: what decides the content, for `made_from.is_finished`: the settings and the input, as JSON.

    Raises:
      FileExistsError: `target` exists.
    """
    target = require_local(target).absolute()
    refuse_existing(target)
    new_parents = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished(target) as partial:
            partial.mkdir()
            yield partial
            if made_from is not None:
                write_made_from(partial, made_from)
            for path in (*partial.rglob("*"), partial):
                if not path.is_symlink():  # its target is not ours to sync
                    fsync(path)
            os.rename(partial, target)
            fsync(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # another process may have written into them
            for parent in new_parents:
                parent.rmdir()
        raise


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
    """Adds to the error of a full disk which folder is on it, and what to do. So too where files may not grow so large.

    Raises:
      OSError: the disk is full, or the file too large for it. Other errors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = advice or "make room on it, and run the same command again"
            raise OSError(f"{os.fspath(folder)}: the disk is full ({error}); {advice}") from error
        if error.errno == errno.EFBIG:
            raise OSError(
                f"{os.fspath(folder)}: a file has reached the largest size here ({error}); choose another disk, or "
                "raise the limit (ulimit -f), and run the same command again"
            ) from error
        raise
