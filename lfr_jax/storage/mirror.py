"""A run in a bucket: its files are written to a temporary folder on this machine, and uploaded from there.

An object cannot be appended to, only replaced as a whole. So the tables and event files of a run grow on this
machine, and are uploaded *before* each checkpoint: the tables in the bucket always have every row up to the newest
checkpoint. Rows after it are cut off when the run continues, as on a disk, and computed again. The tables are
downloaded *after* the checkpoint is chosen, since an older trainer may still add a checkpoint until then.

No lock in a bucket is released when its holder dies. So the newest trainer owns the run: it writes its name to the
object `lock`, and an older trainer that finds another name there stops before its next write. A machine that
replaces a lost one can continue at once. If two trainers are started by mistake, the older one loses its work since
its last checkpoint, and nothing else.
"""

import contextlib
import os
import pathlib
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from typing import TextIO

import fsspec
from etils import epath

from lfr_jax.storage.files import atomic_file
from lfr_jax.storage.paths import Path, is_remote
from lfr_jax.storage.remote_files import explain_errors
from lfr_jax.storage.token_files import Stamp, stamp
from lfr_jax.storage.unfinished import temporary_folder

LOCK = "lock"
DOWNLOADED = ("", "scores")  # folders of a run whose files are appended to, or read again


class RunInUse(OSError):
    """Another trainer holds the run's lock."""


def folder_while_alive(owner: object) -> pathlib.Path:
    """A temporary folder. It is removed when `owner` is garbage-collected or the process ends."""
    stack = contextlib.ExitStack()
    weakref.finalize(owner, stack.close)
    return stack.enter_context(temporary_folder())


class RunMirror:
    """Copies the files of a run between `folder` and the bucket at `url`, for the trainer called `name`."""

    def __init__(self, url: epath.Path, folder: pathlib.Path, name: str):
        self.url, self.folder, self.name = url, folder, name
        self.uploaded: dict[pathlib.Path, Stamp] = {}

    @property
    def system(self) -> fsspec.AbstractFileSystem:
        return fsspec.core.url_to_fs(os.fspath(self.url))[0]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Takes the run over. When the block ends, also by an error, uploads its files and releases it.

        If the upload fails after an error in the block, the error of the block is raised, with a note on the upload.

        Raises:
          RunInUse: at the end, or in `upload`: another trainer has taken the run over.
        """
        if before := self.lock_holder():
            warnings.warn(
                f"{self.url} is taken over from a trainer that did not release it ({before}). If that one still runs, "
                "it stops before its next write",
                stacklevel=4,
            )
        with explain_errors(self.url):
            self.system.pipe_file(str(self.url / LOCK), self.name.encode())
        try:
            yield
        except BaseException as error:
            try:
                self.release()
            except OSError as another:
                error.add_note(f"The run's newest files were not uploaded either: {another}")
            raise
        self.release()

    def release(self) -> None:
        self.upload()
        if self.lock_holder() == self.name:  # another trainer may have taken it during the upload
            with explain_errors(self.url):
                self.system.rm_file(str(self.url / LOCK))

    def lock_holder(self) -> str:
        """The name of the trainer that owns the run; "" if none does."""
        try:
            with explain_errors(self.url):
                return self.system.cat_file(str(self.url / LOCK)).decode()
        except FileNotFoundError:
            return ""

    def download(self) -> None:
        """Copies the files in the `DOWNLOADED` folders from the bucket."""
        with explain_errors(self.url):
            for inner in DOWNLOADED:
                try:
                    found = self.system.ls(str(self.url / inner), detail=True)
                except FileNotFoundError:
                    continue
                files = [pathlib.PurePath(file["name"]).name for file in found if is_file(file)]
                names = [pathlib.PurePath(inner, file) for file in files]
                (self.folder / inner).mkdir(exist_ok=True)
                self.system.get([str(self.url / n) for n in names], [str(self.folder / n) for n in names])
        self.uploaded = self.stamps()

    def upload(self) -> None:
        """Copies files to the bucket that are new or changed since the last upload.

        Raises:
          RunInUse: another trainer has taken the run over. Nothing was copied.
        """
        if (holder := self.lock_holder()) != self.name:
            raise RunInUse(
                f"{self.url} was taken over by another trainer ({holder or 'which has ended'}), so this one stops; "
                "choose another run_dir for one of the two"
            )
        now = self.stamps()
        upload_files(self.folder, [path for path in now if now[path] != self.uploaded.get(path)], self.url)
        self.uploaded = now

    def stamps(self) -> dict[pathlib.Path, Stamp]:
        return {path: stamp(path) for path in files_in(self.folder)}


def is_file(found: dict) -> bool:
    return found["type"] == "file" and not found["name"].endswith(f"/{LOCK}")


@contextlib.contextmanager
def local_folder_for(target: Path) -> Iterator[pathlib.Path]:
    """Yields `target` itself, or for a URL a temporary folder, uploaded when the block ends without an error.

    Raises:
      OSError: the upload failed. The files are kept; the message names their folder.
    """
    if not is_remote(target):
        target.mkdir(parents=True, exist_ok=True)
        yield target
        return
    with temporary_folder() as folder:
        yield folder
        try:
            upload_files(folder, files_in(folder), target)
        except OSError as error:
            kept = folder.rename(tempfile.mkdtemp(prefix="kept-lfr-"))
            raise OSError(f"{error}. The files that were to be uploaded are in {kept}") from error


@contextlib.contextmanager
def atomic_file_at(path: Path) -> Iterator[TextIO]:
    """`files.atomic_file` for a path or a URL. Raises what `local_folder_for` raises."""
    parent = local_folder_for(path.parent) if is_remote(path) else contextlib.nullcontext(path.parent)
    with parent as folder, atomic_file(folder / path.name) as file:
        yield file


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def upload_files(folder: pathlib.Path, files: list[pathlib.Path], url: epath.Path) -> None:
    """Copies files from `folder` to the same relative paths below `url`, each completely or not at all."""
    with explain_errors(url):
        system, _ = fsspec.core.url_to_fs(os.fspath(url))
        system.put([str(path) for path in files], [str(url / path.relative_to(folder)) for path in files])
