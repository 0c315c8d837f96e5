"""The files below a folder, sorted by name. Symbolic links are followed."""

import os
import pathlib
import re
import stat
from collections.abc import Iterator

# Hidden ones; and marks that Spark, Hadoop and Arrow leave beside the files of a data set.
LEFT_OUT = re.compile(r"\..*|_SUCCESS|_committed_.*|_started_.*|_temporary|_metadata|_common_metadata|_delta_log")


def files_below(folder: str | os.PathLike) -> list[pathlib.PurePath]:
    """The files below `folder`, as sorted paths relative to it. `LEFT_OUT` names files and folders that are left out.

    Symbolic links are followed, except for a link to a folder around it: that folder's files are found anyway.

    Raises:
      FileNotFoundError: a symbolic link leads nowhere.
      PermissionError: a folder must not be read.
    """
    folder = pathlib.Path(folder)
    return sorted(path.relative_to(folder) for path in walk(folder) if is_file(path))


def walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Everything that is not a folder."""
    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        here = pathlib.Path(root)
        folders[:] = [name for name in folders if not LEFT_OUT.fullmatch(name) and not is_loop(here / name, folder)]
        yield from (here / name for name in names if not LEFT_OUT.fullmatch(name))


def refuse(error: OSError) -> None:
    """For `os.walk`, which otherwise skips what it cannot read."""
    raise error


def is_loop(path: pathlib.Path, top: pathlib.Path) -> bool:
    """Whether `path` is a link to `top`, or to a folder between `top` and `path`."""
    if not path.is_symlink():
        return False
    depth = len(path.relative_to(top).parts)
    return path.resolve() in {parent.resolve() for parent in path.parents[:depth]}


def is_file(path: pathlib.Path) -> bool:
    """Whether `path` is a regular file. Raises FileNotFoundError for a link that leads nowhere."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: found a symbolic link to {os.readlink(path)}, which does not exist; mend the link or remove it"
        ) from None
