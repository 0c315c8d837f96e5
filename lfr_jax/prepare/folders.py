"""The files below a folder, in an order of their names, with symbolic links followed."""

import os
import pathlib
import stat
from collections.abc import Iterator


def files_below(folder: str | os.PathLike) -> list[pathlib.PurePath]:
    """The files below `folder`, as paths from it: sorted, links followed, hidden files and folders left out.

    A link to a folder that it lies in is not entered: what is there is found without it.

    Raises:
      FileNotFoundError: a symbolic link leads nowhere.
      PermissionError: a folder must not be read.
    """
    folder = pathlib.Path(folder)
    return sorted(path.relative_to(folder) for path in walk(folder) if is_file(path))


def walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All that is no folder."""
    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        here = pathlib.Path(root)
        folders[:] = [name for name in folders if not name.startswith(".") and not is_loop(here / name, folder)]
        yield from (here / name for name in names if not name.startswith("."))


def refuse(error: OSError) -> None:
    """As `os.walk` wants it; by itself it passes over what it cannot read."""
    raise error


def is_loop(path: pathlib.Path, top: pathlib.Path) -> bool:
    """Whether `path` links to a folder that was entered on the way to it from `top`."""
    if not path.is_symlink():
        return False
    depth = len(path.relative_to(top).parts)
    return path.resolve() in {parent.resolve() for parent in path.parents[:depth]}


def is_file(path: pathlib.Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: found a symbolic link to {os.readlink(path)}, where nothing is; mend the link or remove it"
        ) from None
