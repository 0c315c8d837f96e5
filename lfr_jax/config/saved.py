"""Settings that were saved: read back, and compared with those of the run that goes on."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from lfr_jax.config.json_files import typed
from lfr_jax.config.settings import Config
from lfr_jax.config.values import nearest, shown

# Old names of settings. A config file or an option that uses one is refused with the new name; the saved settings of a
# run that began under the old name are read under the new one, so that the run goes on.
RENAMED = {
    "optimizer.warmup": "optimizer.warmup_steps",
    "optimizer.shape": "optimizer.lr_schedule",
    "optimizer.decay": "optimizer.decay_fraction",
    "train.accumulate": "train.grad_accum_steps",
    "train.score_batch": "train.score_batch_size",
    "distributed.heartbeat": "distributed.heartbeat_timeout",
}

# Old values of settings, by the name of the setting, and what they are now. Saved settings alone may hold them.
OLD_VALUES = {"model.remat": {False: "products", True: "block"}}

LONGER = (
    ". A run is not made longer in its own folder, as train.steps fixes its phases and its learning rate. Go on from "
    "its last checkpoint in another folder: --init.run {run} --run-dir OTHER (docs/runs.md)"
)


def check_resumable(saved: Config, new: Config) -> None:
    """Raises ValueError that lists every setting which differs and must not.

    >>> check_resumable(Config(), Config(run_dir="elsewhere"))
    """
    differing = differing_settings(saved, new)
    if differing:
        changes = [f"{name}: {before!r} when it began, now {now!r}" for name, (before, now) in differing.items()]
        longer = LONGER.format(run=new.run_dir) if "train.steps" in differing else ""
        raise ValueError(
            f"the run in {new.run_dir} cannot go on with other settings: {'; '.join(changes)}; "
            f"go back to the first ones, or choose another run_dir{longer}"
        )


def differing_settings(saved: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Name -> (saved value, new value) of the settings that differ, but for those that may change."""
    before, now, free = flat(saved), flat(new), resumable_settings(Config)
    names = [name for name in before | now if before.get(name) != now.get(name) and name not in free]
    return {name: (before.get(name), now.get(name)) for name in names}


def resumable_settings(cls: type, prefix: str = "") -> set[str]:
    """The dotted names of the settings that may change when a run goes on."""
    names: set[str] = set()
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            names |= resumable_settings(field.type, f"{prefix}{field.name}.")
        elif field.metadata.get("may_change"):
            names.add(prefix + field.name)
    return names


def flat(config: Config) -> dict[str, Any]:
    """Settings by dotted name, with values as they read back from JSON."""

    def items(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from items(f"{prefix}.{key}" if prefix else key, inner)
        else:
            yield prefix, value

    return dict(items("", json.loads(json.dumps(dataclasses.asdict(config)))))


def from_saved(values: dict[str, Any], where: str) -> Config:
    """The settings of a run, from its config.json; old names and values are read as the new ones.

    Raises:
      ValueError: a setting is unknown, or has a value that it may not have. `where` names the file.
    """
    values = typed(values, dict[str, Any], where)
    values = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    for old, new in RENAMED.items():
        section, old_name = old.split(".")
        if isinstance(values.get(section), dict) and old_name in values[section]:
            values[section][new.split(".")[1]] = values[section].pop(old_name)
    for name, renamed in OLD_VALUES.items():
        section, field = name.split(".")
        value = values[section].get(field) if isinstance(values.get(section), dict) else None
        if isinstance(value, bool):
            values[section][field] = renamed[value]
    return from_dict(Config, values, where)


def from_dict(cls: type, values: dict[str, Any], where: str) -> Any:
    """A dataclass from nested dicts; fields that are absent keep their defaults. Errors are those of `from_saved`."""
    fields = {field.name: field.type for field in dataclasses.fields(cls)}
    for key in typed(values, dict[str, Any], where):
        if key not in fields:
            raise ValueError(
                f"{where}: unknown setting {shown(key)}; {nearest(key, fields)}known here are {', '.join(fields)}"
            )
    inner = {key for key in values if dataclasses.is_dataclass(fields[key])}
    read = {key: from_dict(fields[key], values[key], f"{where}: {key}") for key in inner}
    try:
        return cls(**(values | read))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
