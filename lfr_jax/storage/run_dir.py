"""A run's folder: its lock, its settings, and the rule which settings may change in a running experiment."""

import contextlib
import dataclasses
import datetime
import fcntl
import functools
import json
import os
import pathlib
import socket
import uuid
from collections.abc import Iterator
from typing import Any

from lfr_jax.config import Config, check_resumable, from_dict
from lfr_jax.storage.checkpoint import latest_step
from lfr_jax.storage.files import report_full_disk, write_atomically
from lfr_jax.storage.mirror import Mirror, RunInUse, scratch
from lfr_jax.storage.paths import Path, as_path, is_remote
from lfr_jax.storage.remote_files import exists, read_bytes


class RunDir:
    """One run: at `path`, on a local or network file system, or in an object store.

    Its files are written in `folder`, all but the checkpoints. That is `path`; or, where `path` is a URL,
    a folder on this machine, out of which `publish` copies them there.
    """

    def __init__(self, path: str | os.PathLike):
        if is_remote(path) and not os.fspath(path).startswith("gs://"):
            # Orbax knows of no other object store that nothing can be renamed there.
            raise ValueError(f"found the run {path}, expected a path on this machine, or gs://BUCKET/...")
        self.path = as_path(path)
        self.mirror: Mirror | None = None

    @functools.cached_property
    def folder(self) -> pathlib.Path:
        return scratch(self) if is_remote(self.path) else self.path

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return exists(self.path / "config.json")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Creates the folder and holds it alone. The kernel frees it when the process ends, however it ends.

        In an object store the newest trainer has it, as `remote_run` says.

        Raises:
          RunInUse: naming the process that holds it.
        """
        name = f"pid {os.getpid()}, host {socket.gethostname()}, since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        if is_remote(self.path):
            self.mirror = Mirror(self.path, self.folder, f"{name}, {uuid.uuid4().hex[:8]}")
            with self.mirror.held(), report_full_disk(self.folder):
                yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with report_full_disk(self.path), open(self.path / "lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunInUse(
                    f"{self.path} is in use by another trainer ({file.read()}); stop it or choose another run_dir"
                ) from None
            file.truncate(0)
            file.write(name)
            file.flush()
            yield

    def fetch(self) -> None:
        """Copies the tables from `path` to `folder`, where they are two, and this process holds the lock."""
        if self.mirror:
            self.mirror.fetch()

    def publish(self) -> None:
        """Copies what was written in `folder` to `path`, where they are two, and this process holds the lock.

        Raises:
          RunInUse: another trainer has taken the run.
        """
        if self.mirror:
            self.mirror.publish()

    def adopt(self, config: Config) -> None:
        """Saves `config` as the run's settings, if it may go on under them: see `check_resumable`.

        Where no checkpoint was finished yet, there is nothing to protect, and any settings will do.
        """
        if latest_step(self.path / "checkpoints") is not None:
            check_resumable(self.load_config(), config)
        write_json(self.folder / "config.json", dataclasses.asdict(config))

    def load_config(self) -> Config:
        """The run's settings.

        Raises:
          FileNotFoundError: no run is there.
          ValueError: the file is not JSON, or names an unknown setting.
        """
        path = self.path / "config.json"
        try:
            return from_dict(Config, read_json(path), str(path))
        except FileNotFoundError:
            raise FileNotFoundError(f"no run in {self.path}: {path} does not exist; name the folder of a run") from None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json`, which only a finished run has."""
        write_json(self.folder / "summary.json", summary)

    def load_summary(self) -> dict[str, Any]:
        """What `write_summary` wrote."""
        return read_json(self.path / "summary.json")


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore it or delete it") from None


def write_json(path: pathlib.Path, data: Any) -> None:
    write_atomically(path, json.dumps(data, indent=2) + "\n")
