"""The folder of a run: its lock, its settings (`config.json`) and its summary (`summary.json`)."""

import contextlib
import dataclasses
import datetime
import fcntl
import functools
import json
import os
import pathlib
import re
import socket
import uuid
from collections.abc import Iterator
from typing import Any

from lfr_jax.config import Config, check_resumable, from_saved
from lfr_jax.config.json_files import from_json, parsed
from lfr_jax.storage.checkpoint import latest_step
from lfr_jax.storage.files import explain_full_disk, require_regular, write_atomically
from lfr_jax.storage.mirror import LOCK, RunInUse, RunMirror, folder_while_alive
from lfr_jax.storage.paths import Path, as_path, is_remote, require_storable
from lfr_jax.storage.remote_files import exists, explain_errors, read_bytes
from lfr_jax.storage.unfinished import remove_leftovers_in


class RunDir:
    """One run at `path`: on a local or network file system, or in a bucket (gs://BUCKET/...).

    Checkpoints are written to `path` directly, all other files to `folder`. On a file system the two are one. For a
    bucket, `folder` is a temporary folder on this machine, and `upload` copies its files to `path`.

    Raises:
      ValueError: `path` is a URL, but not of a bucket of Google Cloud.

    >>> import tempfile
    >>> run = RunDir(tempfile.mkdtemp())
    >>> with run.lock():
    ...     run.save_config(Config())
    >>> run.load_config() == Config()
    True
    """

    def __init__(self, path: str | os.PathLike):
        if is_remote(path) and not os.fspath(path).startswith("gs://"):
            # In other object stores too nothing can be renamed, but Orbax knows this of gs:// only.
            raise ValueError(f"found the run {path}, expected a path on this machine, or gs://BUCKET/...")
        self.path = as_path(path)
        self.mirror: RunMirror | None = None

    @functools.cached_property
    def folder(self) -> pathlib.Path:
        return folder_while_alive(self) if is_remote(self.path) else self.path

    @property
    def exists(self) -> bool:
        """Whether a run has begun here. Exported models have a `config.json` too."""
        try:
            found = parsed(read_bytes(self.path / "config.json"), self.path)
        except (FileNotFoundError, ValueError):
            return False
        return isinstance(found, dict) and {"run_dir", "data", "train"} <= set(found)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Creates the folder, and keeps other trainers out of it.

        On a file system the kernel releases the lock when the process ends, also by `kill -9`. A bucket has no such
        lock: there the newest trainer takes the run over, as `mirror` explains.

        Raises:
          RunInUse: another trainer holds the lock; the message names it.
          OSError: checkpoints could not be written.
          ValueError: the folder holds something else than a run, or checkpoints could not be stored under its path.
        """
        require_storable(self.path / "checkpoints")
        self.refuse_foreign_files()
        holder = f"pid {os.getpid()}, host {socket.gethostname()}, since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        if is_remote(self.path):
            self.mirror = RunMirror(self.path, self.folder, f"{holder}, {uuid.uuid4().hex[:8]}")
            with self.mirror.lock(), explain_full_disk(self.folder):
                yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        require_writable(self.path / "checkpoints")
        if (self.path / LOCK).exists():
            require_regular(self.path / LOCK)
        with explain_full_disk(self.path), open(self.path / LOCK, "a+", encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunInUse(
                    f"{self.path} is in use by another trainer ({file.read()}); stop it or choose another run_dir"
                ) from None
            file.truncate(0)
            file.write(holder)
            file.flush()
            for folder in (self.path, self.path / "scores"):
                remove_leftovers_in(folder)
            yield

    def refuse_foreign_files(self) -> None:
        """Raises ValueError if the folder holds files, and no run: they might be overwritten.

        Hidden files may be there, logs, and empty folders, such as one on a larger disk for the checkpoints.
        So may `lock`, the first file that a run writes.
        """
        with explain_errors(self.path):
            try:
                names = sorted(file.name for file in self.path.iterdir() if not is_empty_folder(file))
            except FileNotFoundError:
                return
        foreign = [name for name in names if name != LOCK and not name.startswith(".") and not is_log(name)]
        if foreign and not self.exists:
            shown = ", ".join(map(repr, foreign[:3])) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
            raise ValueError(
                f"{self.path}: found {shown} and no config.json of a run in it, expected a run, or a folder that is "
                "new or empty; put the config.json of the run back, or choose another run_dir"
            )

    def download(self) -> None:
        """Copies the run's tables from the bucket to `folder`. Does nothing on a file system, or without the lock."""
        if self.mirror:
            self.mirror.download()

    def upload(self) -> None:
        """Copies new and changed files from `folder` to the bucket. Does nothing on a file system, or without the lock.

        Raises:
          RunInUse: another trainer has taken the run over.
        """
        if self.mirror:
            self.mirror.upload()

    def check_config(self, config: Config) -> None:
        """Raises ValueError if the run cannot go on with these settings, or has lost its checkpoints.

        See `check_resumable`. Before the first checkpoint every setting may change, since nothing would be lost.
        """
        self.refuse_foreign_files()
        if latest_step(self.path / "checkpoints") is not None:
            check_resumable(self.load_config(), config)
        elif exists(self.path / "summary.json"):
            raise ValueError(
                f"{self.path}: found the summary of a finished run, and no checkpoint: they were removed, or their "
                "disk is not there; put them back, or choose another run_dir"
            )

    def save_config(self, config: Config) -> None:
        """Writes `config.json`. Raises ValueError as `check_config` does."""
        self.check_config(config)
        write_json(self.folder / "config.json", dataclasses.asdict(config))

    def load_config(self) -> Config:
        """Reads `config.json`.

        Raises:
          FileNotFoundError: there is no run here.
          ValueError: the file is not JSON, or has an unknown setting.
        """
        path = self.path / "config.json"
        try:
            return from_saved(parsed(read_bytes(path), path), str(path))
        except FileNotFoundError:
            raise FileNotFoundError(f"no run in {self.path}: {path} does not exist; name the folder of a run") from None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json`. Only a finished run has one."""
        write_json(self.folder / "summary.json", summary)

    def load_summary(self) -> dict[str, Any]:
        """Reads `summary.json`.

        Raises:
          FileNotFoundError: the run is not finished, or not there.
          ValueError: the file is not JSON, or of a run with another policy than `config.json` says.
        """
        path, policy = self.path / "summary.json", self.load_config().schedule.policy
        summary = from_json(read_bytes(path), dict[str, Any], path)
        if summary.get("policy", policy) != policy:
            raise ValueError(
                f"{path}: found the policy {summary['policy']!r}, expected {policy!r} as in config.json: this is the "
                "summary of another run; put that of this one back"
            )
        return summary


def is_empty_folder(path: Path) -> bool:
    try:
        return not is_remote(path) and not any(path.iterdir())
    except OSError:  # it is no folder, or cannot be listed
        return False


def is_log(name: str) -> bool:
    """Whether a file has a name to which the output of a command is redirected: log, train.log.1, slurm-7.out, ..."""
    return re.search(r"(^|[._-])log([._-]|$)|\.(txt|out|err)$", name) is not None


def require_writable(folder: pathlib.Path) -> None:
    """Raises OSError if `folder` is there, and nothing can be written into it: a run would train, and not be saved."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: found no folder, expected one for the checkpoints; move it away")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: this user may not write into it; change its rights or choose another run_dir")


def write_json(path: pathlib.Path, data: Any) -> None:
    write_atomically(path, json.dumps(data, indent=2) + "\n")
