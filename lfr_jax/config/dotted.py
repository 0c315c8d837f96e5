"""Settings by their dotted names, as on a command line: "train.steps"."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lfr_jax.config.saved import RENAMED
from lfr_jax.config.settings import Config
from lfr_jax.config.values import nearest

OPTION = "schedule.options."


def with_settings(config: Config, changes: Mapping[str, Any]) -> Config:
    """The settings with some changed, by their dotted names.

    Another policy begins with its own defaults: the options of the policy before go, unless "schedule.options" is
    changed too. "schedule.options.NAME" changes one option.

    Raises:
      ValueError: there is no such setting, or it may not have this value.

    Examples:
      >>> with_settings(Config(), {"train.steps": 50, "optimizer.peak_lr": 1e-3}).train.steps
      50
      >>> with_settings(Config(), {"train.step": 50})
      Traceback (most recent call last):
      ValueError: found no setting 'train.step'; did you mean 'train.steps'?
    """
    options = {name.removeprefix(OPTION): value for name, value in changes.items() if name.startswith(OPTION)}
    others = {name: value for name, value in changes.items() if not name.startswith(OPTION)}
    for name in others.keys() - names():
        hint = f"it is called {RENAMED[name]} now" if name in RENAMED else nearest(name, names())
        raise ValueError(f"found no setting {name!r}; {hint}".rstrip("; "))
    same_policy = others.get("schedule.policy", config.schedule.policy) == config.schedule.policy
    own = config.schedule.options if same_policy else {}
    others["schedule.options"] = {**others.get("schedule.options", own), **options}
    sections: dict[str, dict[str, Any]] = {}
    for name, value in others.items():
        section, _, field = name.rpartition(".")
        sections.setdefault(section, {})[field] = value
    whole = sections.pop("", {})
    made = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, **whole, **made)


def names() -> set[str]:
    """The dotted names of all settings."""
    found = set()
    for field in dataclasses.fields(Config):
        inner = dataclasses.fields(field.type) if dataclasses.is_dataclass(field.type) else ()
        found |= {f"{field.name}.{each.name}" for each in inner} or {field.name}
    return found


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The same settings, with each text in them changed: also in lists, tuples and dicts.

    >>> with_texts(Config(run_dir="A"), str.lower).run_dir
    'a'
    """
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: with_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(with_texts(inner, change) for inner in value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: with_texts(getattr(value, field.name), change) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
