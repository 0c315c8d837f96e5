"""JSON files that anybody may have edited: what they hold as typed values, or an error that names file and key."""

import copy
import dataclasses
import functools
import itertools
import json
import re
import types
import typing
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from lfr_jax.config.values import converted, described, shown

DEEPEST = 100  # levels of JSON in JSON: far more than any file of ours has, far fewer than Python's stack bears

T = TypeVar("T")


def from_json(text: bytes | str, kind: type[T], where: object) -> T:
    """What a JSON file holds, as a value of the type `kind`: a dataclass, a dict, a list, ...

    Keys that a dataclass has no field for are left out.

    Args:
      text: of the file.
      kind: of the result. msgspec's table of types says what is understood.
      where: the file, for errors.

    Raises:
      ValueError: the text is not JSON, or a value in it has another type or is out of its range. The message names the
        file, the key, what was found and what was expected.

    >>> from_json('{"bytes": "many"}', dict[str, int], "data/mine/store.json")
    Traceback (most recent call last):
    ValueError: data/mine/store.json: bytes is 'many': expected `int`, got `str`
    """
    return typed(parsed(text, where), kind, where)


def parsed(text: bytes | str, where: object) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: it is none, is nested too deeply, or has a key twice in one object. The message names the file.
    """
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except TwiceError as error:
        raise ValueError(f"{where}: found the key {error} twice in one object, expected it once; remove one") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: found no valid JSON ({error}); restore the file") from None
    level = [value]
    for _ in range(DEEPEST):
        outer = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = [*itertools.chain.from_iterable(outer)]
    if level:
        raise ValueError(f"{where}: found JSON nested more than {DEEPEST} deep, expected less; restore the file")
    return value


class TwiceError(ValueError):
    """An object of JSON has a key twice, and readers differ in which value they take."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON as a dict. Raises TwiceError if a key is there twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise TwiceError(shown(key))
        found[key] = value
    return found


def typed(value: Any, kind: type[T], where: object) -> T:
    """The parsed content of a file as a value of the type `kind`. Errors are those of `from_json`."""
    try:
        return converted(value, kind)
    except msgspec.ValidationError as error:
        problem, inner, path = str(error).rpartition(" - at `$")  # the last one, as the problem quotes what was found
        if not inner:
            problem, path = path, ""
        keys, found = located(value, re.findall(r"[^.\[\]]+|\.\.\.", path.strip("`")), kind)
        at = f"{'.'.join(keys)[:80]} is {shown(found)}: " if keys else ""
        expected = functools.reduce(part_of, keys, kind)
        if get_origin(expected) is Literal:
            problem = f"expected {described(expected)}"
        raise ValueError(f"{where}: {at}{problem[0].lower()}{problem[1:160]}") from None


def located(value: Any, path: list[str], kind: Any) -> tuple[list[str], Any]:
    """The keys that lead to the bad value, and that value. In `path`, "..." stands for a key that msgspec left out."""
    root = inner = copy.deepcopy(value)
    keys = []
    for key in path:
        if key == "...":  # it is the key that alone is enough to fail
            entries = dict(inner)
            for key in entries:
                inner.clear()
                inner[key] = entries[key]
                if not convertible(root, kind):
                    break
        keys.append(key)
        inner = inner[int(key) if isinstance(inner, list) else key]
    return keys, inner


def part_of(kind: Any, key: str) -> Any:
    """The type of what a value of the type `kind` has under a key; None if it has no parts."""
    if get_origin(kind) in (types.UnionType, typing.Union):
        return next(filter(None, (part_of(option, key) for option in get_args(kind))), None)
    if dataclasses.is_dataclass(kind):
        return get_type_hints(kind, include_extras=True).get(key)
    if get_origin(kind) in (dict, list, tuple):
        return get_args(kind)[get_origin(kind) is dict]
    return None


def convertible(value: Any, kind: Any) -> bool:
    """Whether `converted` takes the value."""
    try:
        converted(value, kind)
    except msgspec.ValidationError:
        return False
    return True
