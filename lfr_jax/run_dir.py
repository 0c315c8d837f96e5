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

from lfr_jax.checkpoint import latest_step
from lfr_jax.config import Config, DistributedConfig
from lfr_jax.files import full_disk_named, write_atomically
from lfr_jax.paths import Path, as_path, is_remote
from lfr_jax.remote_files import exists, read_bytes
from lfr_jax.remote_run import Mirror, RunInUse, scratch
from lfr_jax.text import nearest

# What may differ when a run goes on. These fields have no part in what is computed ...
ONLY_LOOKING = {
    "run_dir",
    "train.log_every",
    "train.eval_every",
    "train.eval_blocks",
    "train.checkpoint_every",
    "train.keep_checkpoints",
}
# ... nor have the processes among which the work is divided ...
PROCESSES = {f"distributed.{field.name}" for field in dataclasses.fields(DistributedConfig)}
# ... the order of the data does not depend on these, and the store's fingerprint is checked apart ...
SAME_DATA = {"data.store", "data.cache", "data.workers"}
# ... and these compute the same sums in another order or place: equal but for rounding.
SAME_MATHS = {
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
    "train.accumulate",
    "train.score_batch",
    "model.attention",
    "model.remat",
    "model.loss_chunk",
}
MAY_CHANGE = frozenset(ONLY_LOOKING | PROCESSES | SAME_DATA | SAME_MATHS)


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
            with self.mirror.held(), full_disk_named(self.folder):
                yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with full_disk_named(self.path), open(self.path / "lock", "a+") as file:
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


def check_resumable(saved: Config, new: Config) -> None:
    """Raises ValueError with every setting that differs and may not.

    >>> check_resumable(Config(), Config(run_dir="elsewhere"))
    """
    before, now = flat(saved), flat(new)
    differing = [name for name in before | now if before.get(name) != now.get(name) and name not in MAY_CHANGE]
    if differing:
        lines = [f"  {name}: {before.get(name)!r} when it began, now {now.get(name)!r}" for name in differing]
        raise ValueError(
            f"the run in {new.run_dir} cannot go on with other settings:\n" + "\n".join(lines) + "\n"
            "go back to the first ones, or choose another run_dir"
        )


def flat(config: Config) -> dict[str, Any]:
    """Settings by dotted name, with values as they read back from JSON."""

    def items(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from items(f"{prefix}.{key}" if prefix else key, inner)
        else:
            yield prefix, value

    return dict(items("", json.loads(json.dumps(dataclasses.asdict(config)))))


def from_dict(cls: type, values: dict[str, Any], where: str) -> Any:
    """A dataclass from nested dicts; fields that are absent keep their defaults."""
    fields = {field.name: field.type for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ValueError(
                f"{where}: unknown setting {key!r}; {nearest(key, fields)}known here are {', '.join(fields)}"
            )
    return cls(
        **{
            key: from_dict(fields[key], value, f"{where}: {key}") if dataclasses.is_dataclass(fields[key]) else value
            for key, value in values.items()
        }
    )


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore it or delete it") from None


def write_json(path: pathlib.Path, data: Any) -> None:
    write_atomically(path, json.dumps(data, indent=2) + "\n")
