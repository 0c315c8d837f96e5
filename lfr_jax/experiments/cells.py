"""A cell: a part of an experiment that is made once, in a folder that is found by what makes it.

In `DIR/cells/KEY`, `done.json` is written last: a cell that has one is finished. `lock` is held by the process that
makes the cell; the kernel releases it when that process ends, also by `kill -9`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lfr_jax.config import Config, flat, resumable_settings
from lfr_jax.config.dotted import with_texts
from lfr_jax.config.json_files import from_json
from lfr_jax.storage.files import write_atomically
from lfr_jax.storage.unfinished import claim

VERSION = 1  # of what cells mean: a change of it makes every cell anew
KEY_LENGTH = 20  # hexadecimal digits
DONE = "done.json"
FAILED = "failed.json"

Kind = Literal["folder", "store", "train", "scores"]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """What is made once.

    Its content names other cells by their keys in braces: {KEY}. So cells of equal content are one cell, whatever arm
    asks for them, and another content of a cell gives all that depends on it another key.
    """

    name: str  # for people; not in the key
    kind: Kind
    content: Mapping[str, Any]  # what decides the result, as JSON
    needs: tuple["Cell", ...] = ()
    config: Config | None = None  # of a run, with cells in place of paths
    flops: float = 0  # expected
    path: str = ""  # of a folder that was there before

    @functools.cached_property
    def key(self) -> str:
        text = json.dumps([VERSION, self.kind, self.content], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def mark(self) -> str:
        """What stands for the place of this cell's result in settings and in words of a command."""
        return f"{{{self.key}}}"

    def folder(self, out: pathlib.Path) -> pathlib.Path:
        return out / "cells" / self.key

    def result(self, out: pathlib.Path) -> pathlib.Path:
        """The place of what it makes: a prepared folder, a run, a file of scores."""
        if self.path:
            return pathlib.Path(self.path)
        return self.folder(out) / {"store": "store", "train": "run", "scores": "scores.csv"}[self.kind]

    def held_out(self, out: pathlib.Path) -> pathlib.Path:
        """The losses of a run by held-out document."""
        return self.folder(out) / "held_out.csv"

    def finished(self, out: pathlib.Path) -> bool:
        return bool(self.path) or (self.folder(out) / DONE).is_file()

    def placed(self, value: Any, out: pathlib.Path) -> Any:
        """Settings or words with the cells in them replaced by the places of their results."""

        def place(text: str) -> str:
            for cell in self.needs:
                text = text.replace(cell.mark, str(cell.result(out)))
            return text

        return with_texts(value, place)


def run_content(config: Config, measured: Cell | None) -> dict[str, Any]:
    """What decides a run and its held-out losses: its settings that are not the defaults.

    Settings that change no result are left out. A setting that a later release adds changes no key; if a default
    changes, or what a setting means, `VERSION` has to.

    Args:
      measured: the store whose held-out documents are measured; None: no losses by document are wanted.
    """
    left_out, defaults = resumable_settings(Config), flat(Config())
    settings = {name: value for name, value in flat(config).items() if name not in left_out}
    settings = {name: value for name, value in settings.items() if name not in defaults or value != defaults[name]}
    files = {text: digest for text in texts_of(config) if (digest := file_digest(text))}
    store = config.data.store
    return {"settings": settings, "store": store, "measured": measured.mark if measured else "", "files": files}


def texts_of(config: Config) -> list[str]:
    """The files that the settings of a schedule name."""
    chosen = config.schedule
    columns = [column.partition("=")[2] for column in chosen.columns]
    return [chosen.ref_scores, chosen.weak_scores, chosen.strong_scores, *columns]


def file_digest(path: str) -> str:
    """sha256 of a file of somebody else's; nothing, for a cell's, or where there is none."""
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    except (OSError, ValueError):
        return ""


@contextlib.contextmanager
def taken(cell: Cell, out: pathlib.Path) -> Iterator[int | None]:
    """Locks a cell, and yields the descriptor of the lock; None if another process makes it, or if it is finished."""
    folder = cell.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    claimed = claim(folder)
    try:
        yield claimed.lock if claimed and not cell.finished(out) else None
    finally:
        if claimed:
            os.close(claimed.lock)


def write_record(cell: Cell, out: pathlib.Path, file: str = DONE, **values: Any) -> None:
    """Writes `done.json`, or another file of what became of a cell."""
    about = {"name": cell.name, "kind": cell.kind, "key": cell.key, "content": cell.content}
    write_atomically(cell.folder(out) / file, json.dumps(about | values, indent=1) + "\n")


def read_record(cell: Cell, out: pathlib.Path, file: str = DONE) -> dict[str, Any]:
    """What `write_record` wrote; nothing, where it wrote nothing."""
    path = cell.folder(out) / file
    try:
        return from_json(path.read_bytes(), dict[str, Any], path)
    except FileNotFoundError:
        return {}


def record_failure(cell: Cell, out: pathlib.Path, error: str, command: str) -> None:
    """Writes `failed.json`: why, and that this command has tried it; other commands may try too."""
    commands = read_record(cell, out, FAILED).get("commands", [])
    write_record(cell, out, FAILED, error=error, commands=[*commands, command])


def has_failed(cell: Cell, out: pathlib.Path, command: str) -> bool:
    """Whether this command has tried the cell in vain."""
    return command in read_record(cell, out, FAILED).get("commands", [])
