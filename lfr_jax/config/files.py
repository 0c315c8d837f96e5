"""A file that holds a run's settings: Python that sets `config`, or the JSON that a run saves."""

import dataclasses
import pathlib
import re
import runpy
import traceback

from lfr_jax.config.json_files import parsed
from lfr_jax.config.saved import RENAMED, from_saved
from lfr_jax.config.settings import Config
from lfr_jax.config.values import nearest


def read_config(path: str) -> Config:
    """The settings in a file. JSON (`.json`) is only read; any other file is Python, and is run.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it is a folder or a named pipe.
      ValueError: the file does not hold settings, or they are out of their ranges. Where Python failed in the file,
        the message names the line.
    """
    file = pathlib.Path(path)
    if file.exists() and not file.is_file():
        found = "a folder" if file.is_dir() else "a named pipe" if file.is_fifo() else "a device or a socket"
        raise OSError(f"{path!r} is {found}, expected a file: Python that sets `config`, or a run's config.json")
    if not file.is_file():
        known = sorted(str(file) for file in pathlib.Path("configs").glob("*.py"))
        hint = nearest(path, known) or "name a Python file that sets `config`, or a run's config.json"
        raise FileNotFoundError(f"no configuration file {path!r}; {hint.strip()}")
    if file.suffix == ".json":
        return from_saved(parsed(file.read_bytes(), path), path)
    found = run(path)
    if not isinstance(found, Config):
        raise ValueError(f"{path} must set `config` to an lfr_jax.config.Config; found {type(found).__name__}")
    return found


def run(path: str) -> object:
    """What a Python file sets `config` to. Raises ValueError, with the line, whatever fails in the file."""
    try:
        found = runpy.run_path(path).get("config")
        return checked_again(found) if isinstance(found, Config) else found
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        unknown = re.search("unexpected keyword argument '(.+)'", str(error))
        hint = f"; {renamed(unknown[1]) or nearest(unknown[1], setting_names(Config))}".rstrip("; ") if unknown else ""
        where = f"{path}, line {lines[-1]}" if lines else path
        raise ValueError(f"{where}: {type(error).__name__}: {error}{hint}") from error


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
