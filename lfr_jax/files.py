"""Files that are either whole or not there."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import TextIO


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


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as the whole of `path`."""
    with complete_file(path) as file:
        file.write(text)
