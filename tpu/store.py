"""The controller's state on this machine: one small JSON file per TPU, and a lock beside it."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator

from watch import Memory


class Busy(OSError):
    """Another command holds the lock."""


class Store:
    """Files PATH.json, PATH.lock, PATH.tar.gz (the code that was pushed last), PATH.stop (tells `run` to end)."""

    def __init__(self, path: pathlib.Path):
        ends = (".json", ".lock", ".tar.gz", ".stop")
        self.file, self.lock_file, self.tarball, self.stop_file = (path.with_name(path.name + end) for end in ends)

    def load(self) -> Memory:
        """The saved memory, or an empty one.

        Raises:
          ValueError: the file is damaged.
        """
        try:
            return Memory(**json.loads(self.file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Memory()
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.file} is damaged ({error}); delete it, and all counts begin at 0") from None

    def save(self, memory: Memory) -> None:
        partial = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        with open(partial, "w", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(memory), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.file)

    @contextlib.contextmanager
    def lock(self, what: str) -> Iterator[None]:
        """Allows one command per TPU on this machine. The kernel releases the lock when the process ends.

        Raises:
          Busy: another command holds the lock; the message names it.
        """
        self.lock_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.lock_file, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise Busy(f"{file.read().strip()} is at work on this TPU; wait for it, or end it first") from None
            file.truncate(0)
            file.write(f"`tpu.py {what}` (pid {os.getpid()})\n")
            file.flush()
            yield
