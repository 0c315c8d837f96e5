"""A file that holds a run's settings: Python that sets `config`, or the JSON that a run saves."""

import dataclasses
import pathlib
import re
import runpy
import traceback
from typing import TypeVar

from lfr_jax.config.json_files import parsed
from lfr_jax.config.saved import RENAMED, from_saved
from lfr_jax.config.settings import Config
from lfr_jax.config.values import nearest

Kind = TypeVar("Kind")


def read_config(path: str) -> Config:
    """The settings in a file. JSON (`.json`) is only read; any other file is Python, and is run.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it is a folder or a named pipe.
      ValueError: the file does not hold settings, or they are out of their ranges. Where Python failed in the file,
        the message names the line.
    """
    file = require_file(path, "configuration", "a Python file that sets `config`, or a run's config.json")
    if file.suffix == ".json":
        return from_saved(parsed(file.read_bytes(), path), path)
    return set_in(path, "config", Config)


def require_file(path: str, kind: str, holds: str) -> pathlib.Path:
    """Refuses what is no file, before it is run.

    Args:
      kind: what the file is called in errors: "configuration".
      holds: what is expected, in words.

    Raises:
      FileNotFoundError, OSError: as `read_config`.
    """
    file = pathlib.Path(path)
    if file.exists() and not file.is_file():
        found = "a folder" if file.is_dir() else "a named pipe" if file.is_fifo() else "a device or a socket"
        raise OSError(f"{path!r} is {found}, expected {holds}")
    if not file.is_file():
        known = sorted(str(file) for file in pathlib.Path("configs").rglob("*.py"))
        hint = nearest(path, known) or f"name {holds}"
        raise FileNotFoundError(f"no {kind} file {path!r}; {hint.strip()}")
    return file


def set_in(path: str, name: str, kind: type[Kind]) -> Kind:
    """What a Python file sets `name` to.

    Raises:
      ValueError: it is not of this `kind`; or anything fails in the file, then with the line.
    """
    try:
        found = runpy.run_path(path).get(name)
        found = checked_again(found) if isinstance(found, Config) else found
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        unknown = re.search("unexpected keyword argument '(.+)'", str(error))
        hint = f"; {renamed(unknown[1]) or nearest(unknown[1], setting_names(Config))}".rstrip("; ") if unknown else ""
        where = f"{path}, line {lines[-1]}" if lines else path
        raise ValueError(f"{where}: {type(error).__name__}: {error}{hint}") from error
    if not isinstance(found, kind):
        module = kind.__module__.removesuffix(".settings")  # `lfr_jax.config` has what is in its `settings`
        raise ValueError(f"{path} must set `{name}` to an {module}.{kind.__name__}; found {type(found).__name__}")
    return found


def checked_again(config: Config) -> Config:
    """The same settings, made anew: the file may have changed some, such as `config.schedule.options["drop"]`."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}
    return Config(**{name: dataclasses.replace(x) if dataclasses.is_dataclass(x) else x for name, x in values.items()})


def renamed(name: str) -> str:
    """What a field of this name is called today, for an error; or nothing."""
    return " or ".join(f"it is called {new} now" for old, new in RENAMED.items() if old.endswith(f".{name}"))


def setting_names(kind: type) -> set[str]:
    """The fields of a settings class, and of those within it."""
    inner = (setting_names(field.type) for field in dataclasses.fields(kind) if dataclasses.is_dataclass(field.type))
    return {field.name for field in dataclasses.fields(kind)}.union(*inner)
