"""The files of a run in an object store: written in a folder on this machine, and copied there whole.

An object cannot be appended to: it appears, whole, in place of the one before. So the tables and
events of a run grow here, and are copied when a checkpoint begins, *before* it: whichever checkpoint
is the newest that is whole, the tables there hold every row up to its step. What they hold beyond
that is cut off when the run goes on, as it is on a disk, and done again to the same result. They are
fetched *after* the checkpoint is read that the run goes on from: an older trainer may add one until then.

Nothing locks an object for a process that lives, and unlocks it when the process dies. So the newest
trainer has the run: it writes its name into the object `lock`, and one that finds another's name
there stops before it writes anything more. A machine that takes the place of a lost one goes on at
once; two trainers by mistake cost the older one its work since its last checkpoint, and no more.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from typing import TextIO

import fsspec
from etils import epath

from lfr_jax.storage.files import complete_file
from lfr_jax.storage.paths import Path, is_remote
from lfr_jax.storage.remote_files import explained
from lfr_jax.storage.token_files import Stamp, stamp

LOCK = "lock"
CONTINUED = ("", "scores")  # folders of a run with files that are appended to, or read again


class RunInUse(OSError):
    """Another trainer holds the run's lock."""


def scratch(owner: object) -> pathlib.Path:
    """A new folder on this machine, which goes when `owner` goes, or the process ends."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lfr-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


class Mirror:
    """The run at `url`, whose files are written in `folder`; held by the trainer that calls itself `name`."""

    def __init__(self, url: epath.Path, folder: pathlib.Path, name: str):
        self.url, self.folder, self.name = url, folder, name
        self.sent: dict[pathlib.Path, Stamp] = {}

    @property
    def system(self) -> fsspec.AbstractFileSystem:
        return fsspec.core.url_to_fs(os.fspath(self.url))[0]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Takes the run; at the end, however that comes, copies there what was written and lets it go.

        An error stays what it is where that fails too, and is told of it.

        Raises:
          RunInUse: at the end, or out of `publish`: another trainer has taken the run meanwhile.
        """
        if before := self.holder():
            warnings.warn(
                f"{self.url} is taken over from a trainer that did not say it ended ({before}). If it still runs, it "
                "stops before it writes again",
                stacklevel=4,
            )
        with explained(self.url):
            self.system.pipe_file(str(self.url / LOCK), self.name.encode())
        try:
            yield
        except BaseException as error:
            try:
                self.let_go()
            except OSError as another:
                error.add_note(f"The run's newest files were not copied either: {another}")
            raise
        self.let_go()

    def let_go(self) -> None:
        self.publish()
        if self.holder() == self.name:  # another may have come while files were copied
            with explained(self.url):
                self.system.rm_file(str(self.url / LOCK))

    def holder(self) -> str:
        """What the trainer calls itself that has the run; '' if none has."""
        try:
            with explained(self.url):
                return self.system.cat_file(str(self.url / LOCK)).decode()
        except FileNotFoundError:
            return ""

    def fetch(self) -> None:
        """Copies here what a run goes on from."""
        with explained(self.url):
            for inner in CONTINUED:
                try:
                    found = self.system.ls(str(self.url / inner), detail=True)
                except FileNotFoundError:
                    continue
                files = [pathlib.PurePath(file["name"]).name for file in found if is_file(file)]
                names = [pathlib.PurePath(inner, file) for file in files]
                (self.folder / inner).mkdir(exist_ok=True)
                self.system.get([str(self.url / n) for n in names], [str(self.folder / n) for n in names])
        self.sent = self.stamps()

    def publish(self) -> None:
        """Copies there what was written since the last time.

        Raises:
          RunInUse: another trainer has taken the run. Nothing was copied.
        """
        if (holder := self.holder()) != self.name:
            raise RunInUse(
                f"{self.url} was taken over by another trainer ({holder or 'which has ended'}), and nothing is written "
                "there any more; choose another run_dir for one of the two"
            )
        now = self.stamps()
        copy(self.folder, [path for path in now if now[path] != self.sent.get(path)], self.url)
        self.sent = now

    def stamps(self) -> dict[pathlib.Path, Stamp]:
        return {path: stamp(path) for path in files_in(self.folder)}


def is_file(found: dict) -> bool:
    return found["type"] == "file" and not found["name"].endswith(f"/{LOCK}")


@contextlib.contextmanager
def written_here(target: Path) -> Iterator[pathlib.Path]:
    """A folder on this machine to write in: `target` itself, or one that is copied there once all is well.

    Raises:
      OSError: it cannot be copied, and is left where the message says.
    """
    if not is_remote(target):
        target.mkdir(parents=True, exist_ok=True)
        yield target
        return
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lfr-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        copy(folder, files_in(folder), target)
    except OSError as error:
        raise OSError(f"{error}. What was to be copied is in {folder}") from error
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def complete_file_at(path: Path) -> Iterator[TextIO]:
    """As `files.complete_file`, wherever `path` leads; raises what `written_here` raises."""
    place = written_here(path.parent) if is_remote(path) else contextlib.nullcontext(path.parent)
    with place as folder, complete_file(folder / path.name) as file:
        yield file


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def copy(folder: pathlib.Path, files: list[pathlib.Path], url: epath.Path) -> None:
    """Copies files within `folder` to where they lie within `url`, each whole or not at all."""
    with explained(url):
        system, _ = fsspec.core.url_to_fs(os.fspath(url))
        system.put([str(path) for path in files], [str(url / path.relative_to(folder)) for path in files])
